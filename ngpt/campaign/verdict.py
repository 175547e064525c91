"""From a difference to an answer: supported, refuted or inconclusive, by a rule fixed before any run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ngpt.campaign.statistics import LEVEL, MOST_SEEDS, Array, PairedDifference, compare, seeds_to_decide

Direction = Literal["lower", "higher"]
Label = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What an experiment file predicts of an arm against its baseline, and what would settle it."""

    metric: str
    """Field of the run record that decides, such as "final_val_loss"."""
    predicted: Direction
    """Side of the baseline on which the metric is predicted to fall."""
    smallest_effect: float
    """Smallest difference that matters, in `unit`, positive."""
    unit: str
    """Unit of the metric, such as "nats per token"."""
    seeds: int
    """Complete pairs without which nothing is decided, at least 2."""

    def __post_init__(self) -> None:
        if self.predicted not in get_args(Direction):
            raise ValueError(f"predicted must be one of {get_args(Direction)}, got {self.predicted!r}")
        if not (self.smallest_effect > 0 and math.isfinite(self.smallest_effect)):
            raise ValueError(f"smallest_effect must be positive and finite, got {self.smallest_effect}")
        if self.seeds < 2:
            raise ValueError(f"a rule needs at least 2 seeds, got {self.seeds}")

    @property
    def sign(self) -> int:
        """+1 or -1: times a difference, it is positive where the prediction came true."""
        return 1 if self.predicted == "higher" else -1


@dataclass(frozen=True)
class Verdict:
    """The answer, the numbers it rests on, and one plain sentence with them."""

    label: Label
    effect: PairedDifference | None
    """Arm minus baseline; None where there are fewer than two pairs."""
    why: str
    """What decides, in words."""
    reason: str
    """One sentence: the numbers, then `why`."""
    seeds_needed: int | None
    """For an inconclusive answer, about how many seeds would decide; None where no number up to 10,000 would, or where
    runs are missing and not seeds."""


def judge(
    rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0, distinguishable: bool = True
) -> Verdict:
    """Judge one arm against the baseline.

        supported     the t interval lies on the predicted side of zero, |mean| >= smallest_effect,
                      the arm is `distinguishable` from noise among all arms compared, and no run of it is missing
        refuted       the t interval lies on the other side of zero, or within +- smallest_effect
        inconclusive  otherwise, and always with fewer than `rule.seeds` pairs

    difference: arm minus baseline, in `rule.unit`. n_missing: seeds without a result of the arm, which are never
    evidence for it and do not shield it from being refuted. Refuting rests on the arm's own interval, without Holm's
    correction: it says that the prediction failed, not that the arm is worse.
    """
    missing = f", and {n_missing} of the arm's runs are missing" if n_missing else ""
    if difference is None:
        reason = f"{rule.metric} has fewer than 2 complete pairs of seeds, the rule asks for {rule.seeds}{missing}."
        return Verdict("inconclusive", None, reason, reason, rule.seeds)
    needed = seeds_to_decide(difference, rule.smallest_effect)
    smallest = f"{rule.smallest_effect:g} {rule.unit}"

    def verdict(label: Label, why: str, seeds_needed: int | None = None) -> Verdict:
        measured = (
            f"{rule.metric} differs from the baseline by {difference.mean:+.4g} {rule.unit} "
            f"({1 - LEVEL:.0%} interval {difference.t_low:+.4g} to {difference.t_high:+.4g}, {difference.n} seeds)"
        )
        return Verdict(label, difference, why, f"{measured}: {why}.", seeds_needed)

    if difference.n < rule.seeds:
        why = f"too few, the rule asks for {rule.seeds} complete pairs of seeds{missing}"
        return verdict("inconclusive", why, needed and max(needed, rule.seeds))
    gain = rule.sign * difference.mean
    if difference.excludes_zero and gain >= rule.smallest_effect:
        if n_missing:
            return verdict("inconclusive", f"as predicted, but only among survivors{missing}")
        if not distinguishable:
            return verdict("inconclusive", "as predicted, but not beyond the noise of all the arms compared", needed)
        return verdict("supported", f"{rule.predicted} as predicted, by at least the {smallest} that matter")
    if difference.excludes_zero and gain < 0:
        return verdict("refuted", f"the interval lies on the side of zero opposite to the predicted {rule.predicted}")
    if max(abs(difference.t_low), abs(difference.t_high)) <= rule.smallest_effect:
        return verdict("refuted", f"the interval lies within the {smallest} that matter")
    advice = f"about {needed:,} seeds would decide" if needed else f"not even {MOST_SEEDS:,} seeds would decide"
    return verdict("inconclusive", f"neither the predicted effect nor its absence is shown, and {advice}", needed)


Simplicity = Literal["a win", "not free", "open"]


def judge_simplicity(rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0) -> Simplicity:
    """Judge an arm that is simpler than its baseline: whether doing without costs anything that matters.

        a win      the t interval of the cost lies below rule.smallest_effect, and no run of the arm is missing
        not free   otherwise, and it lies above zero
        open       otherwise, and always with fewer than `rule.seeds` pairs

    difference: arm minus baseline of a metric that is better when lower. The interval is the arm's own, without a
    correction for the number of arms: a simplification that truly costs rule.smallest_effect is called a win in 2.5%.
    """
    if difference is None or difference.n < rule.seeds:
        return "open"
    if difference.t_high < rule.smallest_effect and not n_missing:
        return "a win"
    return "not free" if difference.t_low > 0 else "open"


def name_winner(
    table: Array, contrasts: Array, rule: Rule, rng: np.random.Generator, *, resamples: int = 0
) -> int | None:
    """Row of the contrast with the largest gain among those whose verdict is *supported*; None if there is none.

    table: (S, K), `rule.metric` of every run; contrasts: (C, K). The bootstrap never decides, so that none is drawn
    unless asked for. Errors as `compare`.
    """
    gains: dict[int, float] = {}
    for row, found in enumerate(compare(table, contrasts, rng, resamples=resamples)):
        verdict = judge(rule, found.difference, n_missing=found.n_missing, distinguishable=found.distinguishable)
        if verdict.label == "supported" and verdict.effect is not None:
            gains[row] = rule.sign * verdict.effect.mean
    return max(gains, key=gains.__getitem__, default=None)
