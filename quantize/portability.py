"""The verdict on other x86 processors: the same int8 file, the same images, emulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.deadline import NEVER, Deadline
from quantize.emulation.emulator import NATIVE, Emulator, processor
from quantize.evaluation import Comparison, compare
from quantize.graph import io
from quantize.graph.head import expose_logits
from quantize.job import Given, Images, Job, Tally, open_job
from quantize.measure import predictor, timing_of, verify_files
from quantize.overflow import overflows
from quantize.plan import Cpu, Fidelity, Outcome, Verdict
from quantize.report.values import finite
from quantize.report.verdict import verdict_lines, verdict_to_json
from quantize.verdict import judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantize.config import Config
    from quantize.plan import Batch, OnProgress

BUDGET_S = 300
"""For all emulated processors together."""

SURE = 0.95
"""One-sided confidence asked where only a part of the holdout was seen and none is configured."""

_BATCH = 4
_SEED = 0
_WORST: tuple[Outcome, ...] = ("unmet", "undecided", "met")


@dataclass(frozen=True)
class Elsewhere:
    """What one other processor shows.

    Attributes:
        verdict: there, against the float model here; its time is not measured.
        images: that were run there.
        against_here: int8 there against int8 here on them.
        proven: whether the weights leave no sum of two products that could overflow.
    """

    verdict: Verdict
    images: int
    against_here: Fidelity
    proven: bool

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            **verdict_to_json(self.verdict),
            "emulated_images": self.images,
            "against_here": finite(asdict(self.against_here)),
            "proven": self.proven,
        }

    def lines(self) -> list[str]:
        """For people."""
        seen, here = self.verdict, self.against_here
        adds = "cut off at 16 bits" if seen.cpu.saturates else "exact"
        equal = "identical scores" if np.isinf(here.sqnr_db) else f"{here.sqnr_db:.1f} dB"
        lines = [
            f"           sums of two products are {adds}; {self.images} images,"
            f" {100 * here.agreement:.2f} % of the answers as here, {equal}"
        ]
        if seen.drop is not None:
            lines.append(
                f"           drop {seen.drop.points:.2f} points, 95 % interval"
                f" {seen.drop.low:.2f} to {seen.drop.high:.2f}"
            )
        return ["", f"{seen.cpu.name}", *lines, verdict_lines(seen)[-1]]


@dataclass(frozen=True)
class Portability:
    """The verdict here and on other processors.

    Attributes:
        here: on this processor, on the whole holdout.
        elsewhere: in the order asked.
    """

    here: Verdict
    elsewhere: tuple[Elsewhere, ...]

    @property
    def exit_code(self) -> int:
        """Of the worst verdict: 3 before 4 before 0."""
        verdicts = [self.here, *(seen.verdict for seen in self.elsewhere)]
        return min(verdicts, key=lambda seen: _WORST.index(seen.outcome)).exit_code

    def to_json(self) -> dict[str, Any]:
        """The verdict here with the others under `cpus`, and the exit code of all."""
        others = [seen.to_json() for seen in self.elsewhere]
        return {**verdict_to_json(self.here), "cpus": others, "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """For people."""
        lines = [line for seen in self.elsewhere for line in seen.lines()]
        return [*verdict_lines(self.here), *lines]


def verify_on(
    float_model: str | Path,
    int8_model: str | Path,
    config: Config,
    cpus: Sequence[str],
    *,
    budget: float = BUDGET_S,
    calibration: Given | None = None,
    evaluation: Given | None = None,
    on_progress: OnProgress | None = None,
) -> Portability:
    """The verdict of `verify`, and the same on other x86 processors.

    Args:
        float_model: the float file; its answers here count for all processors.
        int8_model: the int8 file.
        config: data, goal and performance settings.
        cpus: names that the emulator knows, such as `haswell`; `native` is always in it.
        budget: seconds for all of them together: as many images, in a seeded order, as fit.
        calibration: as for `verify`.
        evaluation: as for `verify`.
        on_progress: told while it works.

    Raises:
        QuantizeError: as `verify`; the emulator is missing or does not know a processor.
    """
    names = [processor(name) for name in dict.fromkeys(cpus) if name.casefold() != NATIVE]
    given: dict[str, Any] = {"calibration": calibration, "evaluation": evaluation}
    job = open_job(Path(float_model), config, None, **given, on_progress=on_progress)
    path, goal = Path(int8_model), config.goal()
    here = verify_files(job.model, path, job.holdout, goal, timing_of(config), on_progress).verdict
    none: NDArray[np.float32] = np.zeros((0, *job.model.size), np.float32)
    proven = all(not seen.possible for seen in overflows(io.load(path), none).values())
    share = budget / max(1, len(names))
    found = (_seen_on(name, job, path, share) for name in names)
    return Portability(here, tuple(_judged(seen, here, proven=proven) for seen in found))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one processor did.

    Attributes:
        cpu: the processor.
        comparison: float here against int8 there.
        against_here: int8 here against int8 there.
        whole: whether the whole holdout was seen.
    """

    cpu: Cpu
    comparison: Comparison
    against_here: Fidelity
    whole: bool


def _seen_on(name: str, job: Job, int8_model: Path, budget: float) -> _Seen:
    """Run as many holdout images there as fit the budget."""
    images, deadline = _shuffled(job.holdout), Deadline.after(budget)
    model = io.to_bytes(expose_logits(io.load(int8_model)))
    kept: list[NDArray[np.float32]] = []
    with Emulator(model, name) as emulator:

        def there(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            kept.append(emulator.predict(batch))
            return kept[-1]

        seen = compare(predictor(job.model.path), there, _until(images, deadline))
        cpu = Cpu(f"{name} (emulated)", f"x86-64 {name}, emulated", emulator.saturates, 1)
    again = iter(kept)
    few = images.only(seen.float_.digests)
    both = compare(predictor(int8_model), lambda _: next(again), few)
    whole = seen.float_.images >= len(images.samples) - images.unreadable.count
    return _Seen(cpu, seen, both.fidelity, whole)


def _judged(found: _Seen, here: Verdict, *, proven: bool) -> Elsewhere:
    """The verdict there.

    A part of the images decides only what it can be sure of. Where the weights prove that nothing
    overflows, and the scores of these images are the same as here, the verdict here holds there.
    """
    goal = here.goal
    if not found.whole and goal.confidence is None:
        goal = replace(goal, confidence=SURE)
    verdict = judge(found.comparison, goal, None, found.cpu)
    if proven and np.isinf(found.against_here.sqnr_db):
        same = f"{here.reason}; nothing can overflow, and the scores are those seen here"
        verdict = replace(here, reason=same, latency=None, cpu=found.cpu)
    return Elsewhere(verdict, found.comparison.float_.images, found.against_here, proven)


def _shuffled(images: Images) -> Images:
    """The holdout in a seeded order: whatever fits the budget is a sample of all classes."""
    order = np.random.default_rng(_SEED).permutation(len(images.samples))
    samples = tuple(images.samples[index] for index in order)
    return replace(
        images, name="emulate", samples=samples, batch_size=_BATCH, drop_last=False,
        deadline=NEVER, tally=Tally(),
    )  # fmt: skip


def _until(images: Images, deadline: Deadline) -> Iterator[Batch]:
    """Batches until the time is over, at least one."""
    for batch in images:
        yield batch
        if deadline.passed:
            return
