"""How often verdict and search accept a model whose true drop is exactly the margin.

    python benchmarks/decision_errors.py --json decision_errors.json

One row is one truth: images, share of discordant images, and how many of these are lost rather
than gained; the margin is the drop that follows. Chances and mean numbers of images are exact,
summed over all tables; one column simulates images instead, with a seed, and holds every
threshold it uses against the public functions. As a warning, the last column decides by the
limit of Clopper and Pearson on the discordant images alone, as users of McNemar's test do.
`--large` enumerates the approximation that serves above `EXACT_IMAGES` images.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.stats import beta, binom, norm

from quantize.paired import agreement_interval, decide_agreement, decide_drop
from quantize.plan import Drop, Goal
from quantize.sequential import decide_agreement_at, decide_drop_at, levels, looks
from quantize.trinomial import EXACT_IMAGES, cautious_score, chances, nuisances, score, size

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

IMAGES = (50, 100, 200, 500, 1000, 2000, 5000)
DISCORDANT = (0.002, 0.005, 0.01, 0.02, 0.05)
LOST = (1.0, 0.75)
AGREEMENTS = (0.9, 0.95, 0.98, 0.99, 0.995)
CONFIDENCES = (0.9, 0.95)
ALL_CONFIDENCES = (0.9, 0.95, 0.99)
MUCH_DISCORDANT = (0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Rule:
    """When to stop: at each look the scores that decide.

    Attributes:
        at: images at each look.
        margin: the drop that is allowed (a ratio).
        met: score up to which a look says met.
        unmet: the same with lost and gained exchanged and -margin.
    """

    at: tuple[int, ...]
    margin: float
    met: tuple[float, ...]
    unmet: tuple[float, ...]

    def decides(self, look: int, lost: Counts, gained: Counts) -> tuple[NDArray, NDArray]:
        """Two boolean arrays: met and unmet."""
        n = self.at[look]
        met = score(lost, gained, n, self.margin) <= self.met[look]
        return met, ~met & (score(gained, lost, n, -self.margin) <= self.unmet[look])


@dataclass(frozen=True)
class Course:
    """How a rule ends: chances of met and unmet, mean images used."""

    met: float
    unmet: float
    images: float


@dataclass(frozen=True)
class Row:
    """One truth at the margin; rates are ratios, images are means.

    Attributes:
        n: images in all.
        discordant: share of images that are lost or gained.
        lost: share of these that are lost.
        margin: the drop, which is the allowed one.
        confidence: one-sided; 1 - confidence is promised.
        tango: accepted by Tango's limit alone.
        fixed: accepted by `decide_drop`.
        fixed_unmet: refused by it.
        sequential: accepted by `decide_drop_at`.
        sequential_unmet: refused by it.
        simulated: accepted in simulated runs of it.
        simulated_error: standard error of that.
        conditional: accepted on the discordant images alone.
        images: used by `decide_drop_at` on this truth.
        images_same: used where no answer changes.
        images_no_drop: used where as many images are gained as lost.
        images_twice: used where the drop is twice the margin.
        images_four_times: used where it is four times the margin.
    """

    n: int
    discordant: float
    lost: float
    margin: float
    confidence: float
    tango: float
    fixed: float
    fixed_unmet: float
    sequential: float
    sequential_unmet: float
    simulated: float
    simulated_error: float
    conditional: float
    images: float
    images_same: float
    images_no_drop: float
    images_twice: float
    images_four_times: float


# ------------------------------------------------------------------------------- rules


@cache
def threshold(n: int, d0: float, level: float) -> float:
    """The largest score whose `size` is within the level, to 1e-5; below 0."""
    low = float(norm.ppf(level)) - 0.2
    while size(n, d0, low) > level:
        low -= 0.3
    high = low + 0.5
    while high < 0 and size(n, d0, high) <= level:
        low, high = high, high + 0.3
    high = min(high, -1e-9)
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if size(n, d0, middle) <= level else (low, middle)
    return low


@cache
def fixed(n: int, margin: float, confidence: float) -> Rule:
    """`decide_drop` as scores."""
    level, z = 1 - confidence, float(norm.ppf(confidence))
    met, unmet = (min(-z, threshold(n, d0, level)) for d0 in (margin, -margin))
    return Rule((n,), margin, (met,), (unmet,))


@cache
def sequential(n: int, margin: float, confidence: float) -> Rule:
    """`decide_drop_at` as scores."""
    at = looks(n)
    met, unmet = (
        tuple(threshold(k, d0, level) for k, level in zip(at, levels(at, confidence), strict=True))
        for d0 in (margin, -margin)
    )
    return Rule(at, margin, met, unmet)


def course(rule: Rule, p_lost: float, p_gained: float) -> Course:
    """How the rule ends on images that are lost and gained with these probabilities, exactly."""
    total = rule.at[-1]
    most = [int(binom.isf(1e-13, total, p)) + 1 if p else 0 for p in (p_lost, p_gained)]
    lost, gained = np.meshgrid(*(np.arange(m + 1) for m in most), indexing="ij")
    going = np.zeros(lost.shape)
    going[0, 0] = 1.0
    met = unmet = images = 0.0
    before = 0
    for look, n in enumerate(rule.at):
        step = _table(lost, gained, n - before, p_lost, p_gained)
        going = np.maximum(fftconvolve(going, step)[: most[0] + 1, : most[1] + 1], 0)
        yes, no = rule.decides(look, lost, gained)
        met, unmet = met + going[yes].sum(), unmet + going[no].sum()
        images += n * going[yes | no].sum()
        going[yes | no] = 0
        before = n
    return Course(float(met), float(unmet), float(images + total * going.sum()))


def _table(lost: Counts, gained: Counts, n: int, p_lost: float, p_gained: float) -> Array:
    """Chances of the tables of n images."""
    rest = np.maximum(n - gained, 0)
    chance = binom.pmf(gained, n, p_gained) * binom.pmf(lost, rest, p_lost / (1 - p_gained))
    return np.where(lost + gained <= n, chance, 0.0)


# ----------------------------------------------------------------- simulated, compared


def simulated(
    rule: Rule, goal: Goal, p_lost: float, p_gained: float, runs: int, seed: int
) -> tuple[float, float]:
    """Share of runs that end with met, and its standard error.

    Raises:
        AssertionError: a public function decides otherwise than the rule next to a threshold.
    """
    rng = np.random.default_rng(seed)
    lost = gained = np.zeros(runs, np.int64)
    going, met = np.ones(runs, bool), np.zeros(runs, bool)
    before = 0
    for look, n in enumerate(rule.at):
        counts = rng.multinomial(n - before, [p_lost, p_gained, 1 - p_lost - p_gained], runs)
        lost, gained = lost + counts[:, 0], gained + counts[:, 1]
        yes, no = rule.decides(look, lost, gained)
        _hold_against(rule, look, goal, lost, gained)
        met |= going & yes
        going &= ~(yes | no)
        before = n
    share = float(met.mean())
    return share, math.sqrt(share * (1 - share) / runs)


def _hold_against(rule: Rule, look: int, goal: Goal, lost: Counts, gained: Counts) -> None:
    """Ask the public function about the tables nearest to each threshold, on both sides."""
    n = rule.at[look]
    for scores, border in (
        (score(lost, gained, n, rule.margin), rule.met[look]),
        (score(gained, lost, n, -rule.margin), rule.unmet[look]),
    ):
        for side in (scores <= border, scores > border):
            if not side.any():
                continue
            nearest = np.flatnonzero(side)[np.abs(scores[side] - border).argmin()]
            b, c = int(lost[nearest]), int(gained[nearest])
            yes, no = rule.decides(look, np.array([b]), np.array([c]))
            expected = "met" if yes[0] else "unmet" if no[0] else "undecided"
            said = _asked(rule, look, goal, Drop(0, 0, 0, b, c, n))
            assert said == expected, f"{said}, not {expected}: {b}, {c} of {n}, {rule.margin}"


def _asked(rule: Rule, look: int, goal: Goal, seen: Drop) -> str:
    if rule == fixed(rule.at[-1], rule.margin, goal.confidence or 0.0):
        return decide_drop(seen, 1.0, goal)
    return decide_drop_at(look, rule.at, seen, 1.0, goal) or "undecided"


def conditional(n: int, margin: float, confidence: float) -> Counts:
    """For 0 to n discordant images the most lost ones that the conditional limit accepts.

    Lost ones are a share of the discordant ones; its limit of Clopper and Pearson, times the
    discordance that was seen, is taken for a limit of the drop.
    """
    discordant = np.arange(n + 1)
    low, high = np.full(n + 1, -1), discordant
    while (low < high).any():
        lost = (low + high + 1) // 2
        share = beta.ppf(confidence, lost + 1, np.maximum(discordant - lost, 1e-9))
        share = np.where(lost == discordant, 1.0, share)
        within = (2 * share - 1) * discordant <= margin * n
        low, high = np.where(within, lost, low), np.where(within, high, lost - 1)
    return low


# ------------------------------------------------------------------------------ tables


def row(n: int, discordant: float, lost: float, confidence: float, runs: int, seed: int) -> Row:
    """All figures of one truth."""
    margin = discordant * (2 * lost - 1)
    p_gained = discordant * (1 - lost)
    truth = margin + p_gained, p_gained
    goal = Goal(margin, "absolute", confidence=confidence)
    one, many = fixed(n, margin, confidence), sequential(n, margin, confidence)
    at_margin, at_once = course(many, *truth), course(one, *truth)
    tango = Rule((n,), margin, (-float(norm.ppf(confidence)),), (-math.inf,))
    simulated(one, goal, *truth, runs=runs, seed=seed)
    seen, error = simulated(many, goal, *truth, runs=runs, seed=seed)
    alone = chances(np.array([discordant]), margin, conditional(n, margin, confidence))
    return Row(
        n=n,
        discordant=discordant,
        lost=lost,
        margin=margin,
        confidence=confidence,
        tango=course(tango, *truth).met,
        fixed=at_once.met,
        fixed_unmet=at_once.unmet,
        sequential=at_margin.met,
        sequential_unmet=at_margin.unmet,
        simulated=seen,
        simulated_error=error,
        conditional=float(alone[0]),
        images=at_margin.images,
        images_same=course(many, 0.0, 0.0).images,
        images_no_drop=course(many, discordant / 2, discordant / 2).images,
        images_twice=course(many, 2 * margin + p_gained, p_gained).images,
        images_four_times=course(many, 4 * margin + p_gained, p_gained).images,
    )


def worst_of_any(n: int, margin: float, confidence: float) -> dict[str, float]:
    """Largest rates, as multiples of the promised one, over the share of discordant images."""
    promised = 1 - confidence
    z, one = float(norm.ppf(confidence)), fixed(n, margin, confidence)
    many = sequential(n, margin, confidence)
    shares = [margin * f for f in (1, 1.2, 1.5, 2, 4)] + list(MUCH_DISCORDANT)
    ends = [
        course(many, (s + margin) / 2, (s - margin) / 2)
        for s in shares
        if margin <= s < 1 and n * s <= 1000
    ]
    return {
        "tango, met": size(n, margin, -z) / promised,
        "tango, unmet": size(n, -margin, -z) / promised,
        "fixed, met": size(n, margin, one.met[0]) / promised,
        "fixed, unmet": size(n, -margin, one.unmet[0]) / promised,
        "sequential, met": max(end.met for end in ends) / promised,
        "sequential, unmet": max(end.unmet for end in ends) / promised,
    }


def agreement_course(n: int, least: float, confidence: float) -> Course:
    """How `decide_agreement_at` ends where the share of equal answers is the one asked."""
    at, goal = looks(n), Goal(least, "agreement", confidence=confidence)
    going = np.ones(1)
    met = unmet = images = 0.0
    before = 0
    for look, k in enumerate(at):
        step = binom.pmf(np.arange(k - before + 1), k - before, 1 - least)
        going = np.convolve(going, step)
        likely = np.flatnonzero(going > 1e-12)
        said = {int(d): decide_agreement_at(look, at, 1 - d / k, goal) for d in likely}
        yes = [d for d, outcome in said.items() if outcome == "met"]
        no = [d for d, outcome in said.items() if outcome == "unmet"]
        met, unmet = met + going[yes].sum(), unmet + going[no].sum()
        images += k * going[[*yes, *no]].sum()
        going[[*yes, *no]] = 0
        before = k
    return Course(float(met), float(unmet), float(images + n * going.sum()))


def worst_of_agreement(n: int, least: float, confidence: float) -> dict[str, float]:
    """Rates at the margin as multiples of the promised one."""
    promised = 1 - confidence
    goal = Goal(least, "agreement", confidence=confidence)
    chance = binom.pmf(np.arange(n + 1), n, 1 - least)
    likely = np.flatnonzero(chance > 1e-12)
    wilson = [agreement_interval(1 - d / n, n, 2 * confidence - 1) for d in likely]
    said = np.array([decide_agreement(1 - d / n, n, goal) for d in likely])
    many = agreement_course(n, least, confidence)
    return {
        "wilson, met": chance[likely[[w.low >= least for w in wilson]]].sum() / promised,
        "wilson, unmet": chance[likely[[w.high < least for w in wilson]]].sum() / promised,
        "agreement, met": chance[likely[said == "met"]].sum() / promised,
        "agreement, unmet": chance[likely[said == "unmet"]].sum() / promised,
        "agreement sequential, met": many.met / promised,
        "agreement sequential, unmet": many.unmet / promised,
    }


def approximated(n: int, d0: float, level: float) -> float:
    """The largest chance, as a multiple of the level, of a p-value within it above EXACT_IMAGES."""
    discordant = np.arange(n + 1)
    low, high = np.full(n + 1, -1), discordant
    while (low < high).any():
        lost = (low + high + 1) // 2
        ok = cautious_score(lost, discordant - lost, n, d0) <= norm.ppf(level)
        low, high = np.where(ok, lost, low), np.where(ok, high, lost - 1)
    shares = nuisances(n, d0)
    return max(float(chances(part, d0, low).max()) for part in np.array_split(shares, 16)) / level


COLUMNS = (
    ("n", lambda r: f"{r.n}"),
    ("discordant %", lambda r: f"{100 * r.discordant:g}"),
    ("of them lost %", lambda r: f"{100 * r.lost:g}"),
    ("margin %", lambda r: f"{100 * r.margin:g}"),
    ("promised %", lambda r: f"{100 * (1 - r.confidence):.3g}"),
    ("Tango alone %", lambda r: f"{100 * r.tango:.2f}"),
    ("fixed n %", lambda r: f"{100 * r.fixed:.2f}"),
    ("sequential %", lambda r: f"{100 * r.sequential:.2f}"),
    ("simulated %", lambda r: f"{100 * r.simulated:.2f} ± {100 * r.simulated_error:.2f}"),
    ("images at the margin", lambda r: f"{r.images:.0f}"),
    ("no answer changed", lambda r: f"{r.images_same:.0f}"),
    ("no drop", lambda r: f"{r.images_no_drop:.0f}"),
    ("twice the margin", lambda r: f"{r.images_twice:.0f}"),
    ("four times", lambda r: f"{r.images_four_times:.0f}"),
    ("conditional %", lambda r: f"{100 * r.conditional:.1f}"),
)


def markdown(head: tuple[str, ...], lines: list[list[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    for cells in (list(head), ["---"] * len(head), *lines):
        yield f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--quick", action="store_true", help="up to 500 images, one confidence")
    parser.add_argument("--large", action="store_true", help="the approximation for many images")
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs a row")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _large() -> dict[str, float]:
    found = {
        f"{n} images, drop {d0:g}, level {level:g}": approximated(n, d0, level)
        for n in (EXACT_IMAGES + 1, 50_000)
        for m in (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 5e-2)
        for d0 in {m, -m}
        for level in (0.1, 0.05, 0.01, 0.001)
    }
    worst = max(found, key=lambda name: found[name])
    print(
        f"\nAbove {EXACT_IMAGES} images, worst of {len(found)}: {found[worst]:.4f} of the", end=""
    )
    print(f" promised rate ({worst})")
    return found


def main() -> int:
    """Print both tables, write the figures."""
    asked = _arguments()
    sizes = [n for n in IMAGES if n <= 500 or not asked.quick]
    confidences = CONFIDENCES[-1:] if asked.quick else CONFIDENCES
    rows = []
    for line in markdown(tuple(name for name, _ in COLUMNS), []):
        print(line)
    for n in sizes:
        for confidence in confidences:
            for lost in LOST:
                for share in DISCORDANT:
                    rows.append(row(n, share, lost, confidence, asked.runs, asked.seed))
                    cells = [tell(rows[-1]) for _, tell in COLUMNS]
                    print(f"| {' | '.join(cells)} |", flush=True)
    worst = _worst(rows, confidences if asked.quick else ALL_CONFIDENCES)
    document = {"rows": [asdict(found) for found in rows], "worst": worst}
    if asked.large:
        document["large"] = _large()
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    broken = [
        name
        for name, found in worst.items()
        if not name.startswith(("tango", "wilson")) and found["times"] > 1
    ]
    return 1 if broken else 0


def _worst(rows: list[Row], confidences: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """The worst multiple of the promised rate of each rule, over any discordance; printed too."""
    cases = [
        (worst_of_any, n, margin, confidence)
        for n, margin in sorted({(r.n, r.margin) for r in rows})
        for confidence in confidences
    ]
    cases += [
        (worst_of_agreement, n, least, confidence)
        for n in sorted({r.n for r in rows})
        for least in AGREEMENTS
        for confidence in confidences
    ]
    worst: dict[str, dict[str, float]] = {}
    for told, n, margin, confidence in cases:
        for name, times in told(n, margin, confidence).items():
            if name not in worst or times > worst[name]["times"]:
                case = {"times": float(times), "n": n, "margin": margin, "confidence": confidence}
                worst[name] = case
    print("\nWorst rate over any discordance, as a multiple of the promised one:\n")
    lines = [
        [name, f"{c['times']:.3f}", f"{c['n']}", f"{100 * c['margin']:g}", f"{c['confidence']}"]
        for name, c in worst.items()
    ]
    print("\n".join(markdown(("rule", "times", "n", "margin or share %", "confidence"), lines)))
    most = max(rows, key=lambda r: r.conditional)
    print(f"\nThe conditional limit accepts up to {100 * most.conditional:.1f} %", end="")
    print(f" (n = {most.n}, {100 * (1 - most.confidence):.3g} % promised).")
    return worst


if __name__ == "__main__":
    sys.exit(main())
