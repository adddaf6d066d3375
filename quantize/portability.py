"""The verdict on other x86 processors: the same int8 file, the same images, emulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.deadline import NEVER, Deadline
from quantize.emulation.emulator import NATIVE, Emulator, processor
from quantize.errors import ConfigError, EngineError
from quantize.evaluation import Comparison, compare
from quantize.graph import io
from quantize.graph.head import expose_logits
from quantize.job import Given, Images, Tally, open_job
from quantize.measure import predictor, timing_of, verify_files
from quantize.overflow import overflows
from quantize.plan import EXIT_CODES, Cpu, Fidelity, Outcome, Verdict, worst
from quantize.report.elsewhere import Elsewhere
from quantize.report.verdict import verdict_lines, verdict_to_json
from quantize.verdict import judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantize.config import Config
    from quantize.plan import Batch, OnProgress
    from quantize.runtime import Predict

BUDGET_S = 300
"""For all emulated processors together."""

SURE = 0.95
"""One-sided confidence asked where only a part of the holdout was seen and none is configured."""

_BATCH = 4
_SEED = 0
_MOST_OF_THE_REST = 0.8
"""Share of the time left of a whole run that emulation may take: its report comes after."""


@dataclass(frozen=True)
class Portability:
    """The verdict here and on other processors.

    Attributes:
        here: on this processor, on the whole holdout.
        elsewhere: in the order asked.
        holdout: hash of the images and their preprocessing.
    """

    here: Verdict
    elsewhere: tuple[Elsewhere[Verdict], ...]
    holdout: str

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts."""
        return worst([self.here.outcome, *(seen.outcome for seen in self.elsewhere)])

    @property
    def exit_code(self) -> int:
        """Of the worst verdict: 3 before 4 before 0."""
        return EXIT_CODES[self.outcome]

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
    names = known_processors(cpus)
    given: dict[str, Any] = {"calibration": calibration, "evaluation": evaluation}
    job = open_job(Path(float_model), config, None, **given, on_progress=on_progress)
    path, goal = Path(int8_model), config.goal()
    here = verify_files(job.model, path, job.holdout, goal, timing_of(config), on_progress).verdict
    return elsewhere(job.model.path, path, job.holdout, here, names, budget)


def known_processors(cpus: Sequence[str]) -> tuple[str, ...]:
    """The emulator's spelling of each name, once each, `native` left out.

    Raises:
        EngineError: the emulator is missing or does not know a processor.
    """
    return tuple(dict.fromkeys(processor(name) for name in cpus if name.casefold() != NATIVE))


def listed(config: Config) -> tuple[str, ...]:
    """The further processors of a configuration, in the emulator's spelling.

    Raises:
        ConfigError: the emulator is missing or does not know one.
    """
    try:
        return known_processors(config.evaluation.cpus)
    except EngineError as error:
        raise ConfigError(
            f"{config.origin}: evaluation.cpus: {error.message}", error.cure
        ) from error


def elsewhere(
    float_model: Path,
    int8_model: Path,
    holdout: Images,
    here: Verdict,
    names: Sequence[str],
    budget: float,
) -> Portability:
    """The verdict here, and those of other processors on the same images.

    Args:
        float_model: the float file; its answers here count for all.
        int8_model: the int8 file.
        holdout: the images behind the verdict here; its deadline ends the emulation, too.
        here: the verdict on this processor.
        names: from `known_processors`.
        budget: seconds for all of them together.

    Raises:
        EngineError: the emulated process ended.
        BudgetError: the holdout's deadline passed before an image was answered there.
    """
    if not names:
        return Portability(here, (), holdout.digest)
    proven = cannot_overflow(int8_model)
    reference = predictor(float_model)
    share = min(budget, _MOST_OF_THE_REST * holdout.deadline.left) / len(names)
    found = (seen_on(name, reference, int8_model, holdout, share) for name in names)
    judged = tuple(_judged(seen, here, proven=proven) for seen in found)
    return Portability(here, judged, holdout.digest)


def cannot_overflow(int8_model: Path) -> bool:
    """Whether a file's weights leave no sum of two products that could leave 16 bits."""
    none: NDArray[np.float32] = np.zeros((0, 1, 1, 1), np.float32)
    return all(not seen.possible for seen in overflows(io.load(int8_model), none).values())


@dataclass(frozen=True, eq=False)
class Seen:
    """What one processor did.

    Attributes:
        cpu: the processor.
        comparison: the reference here against int8 there.
        against_here: int8 here against int8 there.
        whole: whether all images were seen.
    """

    cpu: Cpu
    comparison: Comparison
    against_here: Fidelity
    whole: bool


def seen_on(name: str, reference: Predict, int8_model: Path, images: Images, budget: float) -> Seen:
    """Run as many images there as fit the budget.

    Args:
        name: of the processor, in the emulator's spelling.
        reference: a model on this processor, to compare with.
        int8_model: the int8 file.
        images: to take a sample of.
        budget: seconds; one batch is run in any case.

    Raises:
        EngineError: the emulated process ended.
        BudgetError: the images' deadline passed.
    """
    hard, deadline = images.deadline, Deadline.after(budget)
    images = _shuffled(images)
    model = io.to_bytes(expose_logits(io.load(int8_model)))
    kept: list[NDArray[np.float32]] = []
    with Emulator(model, name, hard) as emulator:

        def there(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            kept.append(emulator.predict(batch))
            return kept[-1]

        seen = compare(reference, there, _until(images, deadline))
        cpu = Cpu(f"{name} (emulated)", f"x86-64 {name}, emulated", emulator.saturates, 1)
    again = iter(kept)
    few = images.only(seen.float_.digests)
    both = compare(predictor(int8_model), lambda _: next(again), few)
    whole = seen.float_.images >= len(images.samples) - images.unreadable.count
    return Seen(cpu, seen, both.fidelity, whole)


def _judged(found: Seen, here: Verdict, *, proven: bool) -> Elsewhere[Verdict]:
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
    images = found.comparison.float_.images
    return Elsewhere(found.cpu, images, found.against_here, proven, verdict)


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
