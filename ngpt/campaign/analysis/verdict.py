"""Answers from results: supported, refuted or inconclusive, by a rule fixed before any run. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ngpt.campaign.analysis.statistics import LEVEL, MAX_SEEDS, Comparison, PairedDifference, compare, seeds_to_decide
from ngpt.campaign.definition import Campaign, Contrast, Rule

Label = Literal["supported", "refuted", "inconclusive"]
Simplicity = Literal["a win", "not free", "open"]


@dataclass(frozen=True)
class Verdict:
    """The answer, the numbers it rests on, and one plain sentence that states them."""

    label: Label
    effect: PairedDifference | None
    """the contrast's mean; None with fewer than two pairs"""
    why: str
    """what decides, in words"""
    reason: str
    """one sentence: the numbers, then `why`"""
    seeds_needed: int | None
    """for an inconclusive answer, roughly how many seeds would decide; None if no number up to 10,000 would, or if the
    problem is not the number of seeds"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One contrast with its result and its verdict."""

    contrast: Contrast
    result: Comparison
    verdict: Verdict


def judge(
    rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0, distinguishable: bool = True,
    edge: Mapping[Label, Sequence[str]] | None = None,
) -> Verdict:  # fmt: skip
    """Judge one contrast.

        supported     the t interval lies on the predicted side of zero, |mean| >= smallest_effect, the contrast is
                      `distinguishable` from noise among all those compared, and no run of it is missing
        refuted       the t interval lies on the other side of zero, or within +- smallest_effect
        inconclusive  otherwise; also with fewer than `rule.seeds` pairs, and wherever a rate beyond the edge of a
                      tuning grid could overturn the verdict

    difference: mean of the contrast over seeds, in `rule.unit`; None with fewer than two pairs. n_missing: seeds on
    which a run of the contrast has no result; missing runs are never evidence for a method, and do not keep it from
    being refuted. distinguishable: as in `Comparison`. edge: for each label, the methods whose chosen rate is at the
    edge of their grid and whose better tuning could overturn that label. Refuting rests on the contrast's own interval,
    without Holm's correction: it says that the prediction failed, not that the method is worse.
    """
    missing = f", and {n_missing} of the arm's runs are missing" if n_missing else ""
    if difference is None:
        reason = f"{rule.metric} has fewer than 2 complete pairs of seeds, the rule asks for {rule.seeds}{missing}."
        return Verdict("inconclusive", None, reason, reason, rule.seeds)
    needed = seeds_to_decide(difference, rule.smallest_effect)
    smallest = f"{rule.smallest_effect:g} {rule.unit}"

    def verdict(label: Label, why: str, seeds_needed: int | None = None) -> Verdict:
        reason = (
            f"{rule.metric} differs from the baseline by {difference.mean:+.4g} {rule.unit} ({1 - LEVEL:.0%} interval "
            f"{difference.t_low:+.4g} to {difference.t_high:+.4g}, {difference.n} seeds): {why}."
        )
        if names := (edge or {}).get(label):
            why = f"would be {label}, but the best rate of {' and '.join(names)} may lie beyond its grid"
            label, reason = "inconclusive", f"{reason} But: {why}."
        return Verdict(label, difference, why, reason, seeds_needed)

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
    advice = f"about {needed:,} seeds would decide" if needed else f"not even {MAX_SEEDS:,} seeds would decide"
    return verdict("inconclusive", f"neither the predicted effect nor its absence is shown, and {advice}", needed)


def judge_campaign(
    campaign: Campaign, table: np.ndarray, rates: Mapping[str, float], rng: np.random.Generator, *,
    aux_rates: Mapping[str, float] | None = None, resamples: int = 10_000,
) -> tuple[list[Answer], str | None]:  # fmt: skip
    """Judge every contrast of a campaign, those of one question under one error rate, and name the winner.

    The winner is the method with the largest gain among those *supported* against their baseline, where a lower metric
    is predicted; None if there is none.

    table: (S, K), `rule.metric` on each comparison seed of each method at its chosen rates; S may be 0. rates: each
    method's chosen hidden rate. aux_rates: the same for the auxiliary rate, where it is tuned. rng, resamples: for the
    bootstrap intervals, which decide nothing; 0 for none.
    """
    contrasts = campaign.contrasts()
    at_edge = {
        method.name: [
            method.name + suffix
            for grid, chosen, suffix in (
                (method.lrs, rates.get(method.name), ""),
                (campaign.aux_lrs, (aux_rates or {}).get(method.name), " (auxiliary)"),
            )
            if len(grid) > 1 and chosen in (grid[0], grid[-1])
        ]
        for method in campaign.methods
    }
    answers = []
    for question in dict.fromkeys(contrast.question for contrast in contrasts):
        asked = [contrast for contrast in contrasts if contrast.question == question]
        weights = np.array([[c.weights.get(method.name, 0.0) for method in campaign.methods] for c in asked])
        found = compare(table, weights, rng, resamples=resamples)
        for contrast, result in zip(asked, found, strict=True):
            edge = {label: [text for name in contrast.methods_that_could_overturn(label) for text in at_edge[name]]
                    for label in get_args(Label)}  # fmt: skip
            verdict = judge(
                contrast.rule, result.difference, n_missing=result.n_missing, distinguishable=result.distinguishable,
                edge=edge,
            )  # fmt: skip
            answers.append(Answer(contrast=contrast, result=result, verdict=verdict))
    better = [a for a in answers if a.contrast.question == campaign.question and a.verdict.label == "supported"]
    gains = {next(name for name, weight in a.contrast.weights.items() if weight > 0): a.verdict.effect.mean
             for a in better if a.verdict.effect is not None}  # fmt: skip
    return answers, min(gains, key=gains.__getitem__) if gains and campaign.rule.predicted == "lower" else None


def judge_simplicity(rule: Rule, difference: PairedDifference | None, *, n_missing: int = 0) -> Simplicity:
    """Judge whether a method that is simpler than its baseline costs anything that matters.

        a win      the t interval of the cost lies below rule.smallest_effect, and no run of the method is missing
        not free   otherwise, and it lies above zero
        open       otherwise, and always with fewer than `rule.seeds` pairs

    difference: method minus baseline of a metric that is better when lower. The interval is the method's own, without
    a correction for the number of methods: one that truly costs rule.smallest_effect is called a win in 2.5% of cases.
    """
    if difference is None or difference.n < rule.seeds:
        return "open"
    if difference.t_high < rule.smallest_effect and not n_missing:
        return "a win"
    return "not free" if difference.t_low > 0 else "open"
