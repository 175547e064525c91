"""Answers from results, each one of four words, by a rule fixed before any run. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ngpt.campaign.analysis.statistics import (
    LEVEL,
    MOST_SEEDS,
    Array,
    Comparison,
    PairedDifference,
    compare,
    seeds_to_decide,
)
from ngpt.campaign.definition import Campaign, Contrast, Rule, Word

Simplicity = Literal["a win", "not free", "open"]


@dataclass(frozen=True)
class Verdict:
    """The answer, the numbers it rests on, and one plain sentence that states them."""

    word: Word
    effect: PairedDifference | None
    """the contrast's mean; None with fewer than two pairs"""
    why: str
    """what decides, in words"""
    reason: str
    """one sentence: the numbers, then `why`"""
    seeds_needed: int | None
    """for an undecided answer, roughly how many new seeds have an even chance of deciding; None if no number up to
    10,000 has, if the problem is not the number of seeds, or if the mean's size is less than a standard error below
    the smallest effect, where a tiny change in the mean changes the number a lot"""
    confirmed: bool | None
    """whether the rule's prediction came true; None if it makes none"""
    doubted: Word | None = None
    """the word that the numbers alone would give, where a doubt makes the answer undecided"""

    @property
    def side(self) -> str:
        """Return "lower" or "higher" if the interval excludes zero, else nothing."""
        return "" if self.effect is None else side_of(self.effect)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One contrast with its result and its verdict."""

    contrast: Contrast
    result: Comparison
    verdict: Verdict
    values: Array = field(compare=False)
    """the contrast on each comparison seed, (seeds,); NaN where a run of it has no result"""
    doubts: Mapping[Word, Sequence[str]] = field(default_factory=dict, compare=False)
    """for each word, what could overturn it"""

    @property
    def agreeing(self) -> int:
        """Return the number of seeds on which the contrast has the sign of its mean."""
        mean = 0.0 if self.verdict.effect is None else self.verdict.effect.mean
        return int((np.sign(self.values) == np.sign(mean)).sum())

    @property
    def seeds(self) -> int:
        """Return the number of seeds with a result."""
        return int(np.isfinite(self.values).sum())


def side_of(difference: PairedDifference) -> str:
    """Return "lower" or "higher" if the t interval excludes zero, else nothing."""
    return "lower" if difference.t_high < 0 else "higher" if difference.t_low > 0 else ""


def judge(
    rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0, distinguishable: bool = True,
    doubts: Mapping[Word, Sequence[str]] | None = None,
) -> Verdict:  # fmt: skip
    """Judge one contrast. A lower metric is better.

        better      with `rule.seeds` pairs and no run missing, the t interval lies below zero, |mean| >=
                    smallest_effect, the contrast is `distinguishable` from noise among all those compared, and no
                    doubt is left, such as a baseline whose best rate is at the edge of its grid
        worse       the same above zero
        no difference that matters    the t interval lies within +- smallest_effect
        undecided   otherwise; also with fewer than `rule.seeds` pairs, and wherever there is a doubt about the word

    A missing run is a doubt about every word but "worse", and no prediction is confirmed while one is missing. That a
    loss is not lower, or not higher, is confirmed by an interval that excludes a decrease, or an increase, of
    smallest_effect, whatever the word, unless a better rate might bring one.

    difference: mean of the contrast over seeds, in `rule.unit`; None with fewer than two pairs. n_missing: seeds on
    which a run of the contrast has no result, so that its noise is not estimated with that of the others.
    distinguishable: as in `Comparison`; with missing runs, by the contrast's own test. doubts: for each word, what
    could overturn it.
    """
    gap = f"runs are missing on {n_missing} seed{'s' if n_missing != 1 else ''}"
    missing = f", and {gap}" if n_missing else ""
    unknown = None if rule.predicted is None else False
    if difference is None:
        why = f"{rule.metric} has fewer than 2 complete pairs of seeds, the rule asks for {rule.seeds}{missing}"
        return Verdict("undecided", None, why, f"{why}.", None if n_missing >= rule.seeds else rule.seeds, unknown)
    at_the_limit = 0 < rule.smallest_effect - abs(difference.mean) < difference.sd / math.sqrt(difference.n)
    needed = None if at_the_limit else seeds_to_decide(difference, rule.smallest_effect)
    smallest = f"the {rule.smallest_effect:g} {rule.unit} that matter"
    side = side_of(difference)

    def verdict(word: Word, why: str, seeds_needed: int | None = None) -> Verdict:
        reason = (
            f"{rule.metric} differs by {difference.mean:+.4g} {rule.unit} ({1 - LEVEL:.0%} interval "
            f"{difference.t_low:+.4g} to {difference.t_high:+.4g}, {difference.n} seeds): {why}."
        )
        bounds: dict[str, tuple[float, Word]] = {
            "not lower": (-difference.t_low, "worse"), "not higher": (difference.t_high, "better")
        }  # fmt: skip
        bound, side_excluded = bounds.get(rule.predicted or "", (np.inf, word))
        sound = difference.n >= rule.seeds and not (doubts or {}).get(side_excluded)
        excluded = sound and bound < rule.smallest_effect
        lost = [gap] if n_missing and word not in ("worse", "undecided") else []
        reasons = [*(doubts or {}).get(word, ()), *lost]
        came_true = (word in rule.confirming and not reasons) or excluded
        confirmed = None if rule.predicted is None else came_true and not n_missing
        if reasons:
            why = f"the numbers say {word}, but {' and '.join(reasons)}"
            return Verdict("undecided", difference, why, f"{reason} But: {why}.", None, confirmed, doubted=word)
        return Verdict(word, difference, why, reason, seeds_needed, confirmed)

    if difference.n < rule.seeds:
        why = f"too few, the rule asks for {rule.seeds} complete pairs of seeds{missing}"
        run_enough = difference.n + n_missing >= rule.seeds  # more of them would be lost as well
        return verdict("undecided", why, None if run_enough else needed and max(needed, rule.seeds))
    if side and abs(difference.mean) >= rule.smallest_effect:
        if not distinguishable:
            why = f"{side}, on average by at least {smallest}, but not beyond the noise of all the methods compared"
            return verdict("undecided", why)
        return verdict("better" if side == "lower" else "worse", f"{side}, on average by at least {smallest}")
    if max(abs(difference.t_low), abs(difference.t_high)) <= rule.smallest_effect:
        return verdict("no difference that matters", f"{side + ', but ' if side else ''}within {smallest}")
    advice = f"not even {MOST_SEEDS:,} seeds would be likely to decide"
    if needed:
        advice = f"about {needed:,} new seeds would have an even chance of deciding"
    if at_the_limit:
        advice = "the mean is so close to that limit that no number of seeds can be named"
    if side:
        return verdict("undecided", f"{side}, but perhaps by less than {smallest}; {advice}", needed)
    return verdict("undecided", f"the interval contains zero and more than {smallest}; {advice}", needed)


def are(count: int) -> str:
    """Return the verb for a number of things."""
    return "is" if count == 1 else "are"


def rates_at_edges(
    campaign: Campaign, rates: Mapping[str, float | None], aux_rates: Mapping[str, float | None]
) -> dict[str, list[str]]:
    """Return for each method which of its chosen rates are at the edge of their grid, in words.

    A method at the rates of another one has that method's.
    """
    found = {
        method.name: [
            f"the best {kind}rate of {method.name} is at the edge of its grid"
            for grid, chosen, kind in (
                (method.lrs, rates.get(method.name), ""),
                (campaign.aux_lrs, aux_rates.get(method.name), "auxiliary "),
            )
            if len(grid) > 1 and chosen in (grid[0], grid[-1])
        ]
        for method in campaign.methods
    }
    return _lent(campaign, found)


def _lent(campaign: Campaign, found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return doubts by method, where a method at the rates of another one has that method's instead of its own."""
    return {method.name: [*found[method.at_rates_of or method.name]] for method in campaign.methods}


def judge_campaign(
    campaign: Campaign, table: np.ndarray, rates: Mapping[str, float], *,
    aux_rates: Mapping[str, float] | None = None, lost_in_tuning: Mapping[str, int] | None = None,
) -> tuple[list[Answer], str | None]:  # fmt: skip
    """Judge every contrast of a campaign, those of one question under one error rate, and name the winner.

    The winner is the method with the largest gain among those that are *better* than their baseline; None if none is.
    A rate at the edge of a grid, or one for which a tuning run was lost, may hide a better result of its method, which
    is a doubt about the words that it could overturn. No method is called worse for missing runs of what it is compared
    with. A contrast with missing runs is held to its own t-test, corrected for all comparisons of its question
    (Bonferroni).

    table: (S, K), `rule.metric` on each comparison seed of each method at its chosen rates; S may be 0. rates: each
    method's chosen hidden rate. aux_rates: the same for the auxiliary rate, where it is tuned. lost_in_tuning: by
    method, tuning runs that did not end by themselves.
    """
    contrasts = campaign.contrasts()
    hidden = rates_at_edges(campaign, rates, aux_rates or {})
    for name, number in (lost_in_tuning or {}).items():
        if number:
            hidden[name].append(f"{number} of the runs that tune {name} {are(number)} missing")
    hidden = _lent(campaign, hidden)
    lost = dict(zip([method.name for method in campaign.methods], (~np.isfinite(table)).sum(axis=0), strict=True))
    answers = []
    for question in dict.fromkeys(contrast.question for contrast in contrasts):
        asked = [contrast for contrast in contrasts if contrast.question == question]
        weights = np.array([[c.weights.get(method.name, 0.0) for method in campaign.methods] for c in asked])
        found = compare(table, weights)
        incomplete = ~np.isfinite(table) @ (weights.T != 0)
        values = np.where(incomplete, np.nan, np.where(np.isfinite(table), table, 0.0) @ weights.T)
        for contrast, result, column in zip(asked, found, values.T, strict=True):
            doubts = {
                word: list(dict.fromkeys(
                    text for name in contrast.methods_that_could_overturn(word) for text in hidden[name]))
                for word in get_args(Word)
            }  # fmt: skip
            doubts["worse"] += [f"{lost[name]} of the runs of {name} {are(lost[name])} missing"
                                for name, weight in contrast.weights.items() if weight < 0 and lost[name]]  # fmt: skip
            own_test = bool(result.n_missing) and result.difference is not None and (
                result.difference.excludes_zero and len(asked) * result.difference.p < LEVEL)  # fmt: skip
            verdict = judge(
                contrast.rule, result.difference, n_missing=result.n_missing,
                distinguishable=result.distinguishable or own_test, doubts=doubts,
            )  # fmt: skip
            answers.append(Answer(contrast=contrast, result=result, verdict=verdict, values=column, doubts=doubts))
    of_methods = {contrast.name for contrast in campaign.against_baselines()}
    better = [a for a in answers if a.contrast.name in of_methods and a.verdict.word == "better"]
    gains = {next(name for name, weight in a.contrast.weights.items() if weight > 0): a.verdict.effect.mean
             for a in better if a.verdict.effect is not None}  # fmt: skip
    return answers, min(gains, key=gains.__getitem__) if gains else None


def judge_simplicity(
    rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0, doubted: bool = False
) -> Simplicity:
    """Judge whether a method that is simpler than its baseline costs anything that matters.

        a win      the t interval of the cost lies below rule.smallest_effect, no run of the method is missing, and the
                   baseline is not `doubted`: it might have a better rate
        not free   otherwise, and it lies above zero
        open       otherwise, and always with fewer than `rule.seeds` pairs

    difference: method minus baseline of a metric that is better when lower. The interval is the method's own, without
    a correction for the number of methods: one that truly costs rule.smallest_effect is called a win in 2.5% of cases.
    """
    if difference is None or difference.n < rule.seeds:
        return "open"
    if difference.t_high < rule.smallest_effect and not n_missing and not doubted:
        return "a win"
    return "not free" if difference.t_low > 0 else "open"
