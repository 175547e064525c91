"""`reports/data/<campaign>.json` -> every number of the report: tables, intervals, verdicts. Pure, seeded, no torch."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngpt.campaign.definition import Campaign, Contrast, Method
from ngpt.campaign.pace import Pace, pace_of
from ngpt.campaign.statistics import (
    Array,
    Comparison,
    LrOptimum,
    best_lr,
    compare,
    noise_floor,
    paired_difference,
    steps_to_reach,
)
from ngpt.campaign.verdict import Simplicity, Verdict, judge, judge_simplicity

BOOTSTRAP_SEED = 20241001


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One contrast with its result and its verdict."""

    contrast: Contrast
    result: Comparison | None
    """None before the comparison has begun"""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method over its grid and at the rate that tuning chose."""

    method: Method
    tuning: Array
    """metric on the tuning seeds, (seeds, rates); NaN where there is none"""
    chosen_lr: float | None
    optimum: LrOptimum | None
    comparison: Array
    """metric at the chosen rate on the comparison seeds, (seeds,)"""
    speedup: Array
    """share of its baseline's steps after which this method is at the baseline's final loss, (seeds,); inf: never"""
    time_share: Array
    """the same as a share of the baseline's training time, as measured on this machine, (seeds,)"""
    tokens_per_second: float | None
    """median over the comparison runs"""
    tokens_per_second_ratio: float | None
    """median over seeds of its rate over its baseline's"""
    telemetry: dict[str, tuple[Array, Array]]
    """(steps, mean over the comparison seeds) by quantity"""
    pace: Pace | None
    """against its baseline, where runs end by the clock"""


@dataclass(frozen=True, kw_only=True)
class Simplification:
    """A method that does without something, and whether that costs anything."""

    method: Method
    answer: Answer
    label: Simplicity


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A campaign's numbers."""

    summaries: list[MethodSummary]
    answers: list[Answer]
    simplifications: list[Simplification]
    winner: str | None
    """the best of the methods that beat their baseline; None as well where no gain is predicted"""
    noise_floors: dict[str, float]
    """each baseline's spread over the comparison seeds"""
    paired_noise: float | None
    """spread of a method's difference to its baseline over seeds, pooled; None without two comparison seeds"""
    idle: list[tuple[str, str]]
    """pairs of arms whose weights are equal after the first step and at the end"""
    counts: dict[str, int]
    """runs by status"""
    complete: bool
    """every planned run has ended by itself"""

    def questions(self) -> dict[str, list[Answer]]:
        """The answers by question."""
        found: dict[str, list[Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.contrast.question, []).append(answer)
        return found


def analyse(campaign: Campaign, data: dict[str, Any]) -> Analysis:
    """All figures of a report from its data."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    rows = data["runs"]
    metric = campaign.rule.metric
    compared = _comparison_table(campaign, rows, metric)
    columns = {method.name: column for column, method in enumerate(campaign.methods)}
    answers = _answers(campaign, compared, rows, rng)
    training = data["training"]
    decay_share = training["decay_share"] if training["schedule"] == "wsd" else 0.0
    budget = training.get("budget_seconds")
    undecayed = None if budget is None else budget * (1 - decay_share)
    summaries = [
        _summary(campaign, m, rows, metric, compared[:, columns[m.name]], undecayed, rng) for m in campaign.methods
    ]
    plain = [answer for answer in answers if answer.contrast.question == campaign.question]
    spreads = [a.result.difference.sd for a in plain if a.result is not None and a.result.difference is not None]
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row["status"]] += 1
    return Analysis(
        summaries=summaries,
        answers=answers,
        simplifications=_simplifications(campaign, plain),
        winner=_winner(campaign, plain),
        noise_floors={
            name: noise_floor(compared, columns[name])
            for name in campaign.baselines
            if np.isfinite(compared[:, columns[name]]).sum() >= 2
        },
        paired_noise=float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
        idle=_idle_arms(rows),
        counts=dict(counts),
        complete=len(rows) == data["planned_runs"] and counts["done"] + counts["diverged"] == len(rows),
    )


def _comparison_table(campaign: Campaign, rows: list[dict[str, Any]], metric: str) -> Array:
    """(seeds, methods) at each method's chosen rate; no rows before the comparison has begun."""
    values = {(r["method"], r["seed"]): r.get(metric, math.nan) for r in rows if r["stage"] == "comparison"}
    seeds = sorted({seed for _, seed in values})
    table = [[values.get((method.name, seed), math.nan) for method in campaign.methods] for seed in seeds]
    return np.array(table, dtype=np.float64).reshape(len(seeds), len(campaign.methods))


def _answers(campaign: Campaign, table: Array, rows: list[dict[str, Any]], rng: np.random.Generator) -> list[Answer]:
    """Every contrast judged, those of one question under one error rate."""
    contrasts = campaign.contrasts()
    answers = []
    for question in dict.fromkeys(contrast.question for contrast in contrasts):
        asked = [contrast for contrast in contrasts if contrast.question == question]
        weights = np.array([[c.weights.get(method.name, 0.0) for method in campaign.methods] for c in asked])
        found: list[Comparison | None] = list(compare(table, weights, rng)) if len(table) else [None] * len(asked)
        for contrast, result in zip(asked, found, strict=True):
            verdict = judge(
                contrast.rule,
                None if result is None else result.difference,
                n_missing=0 if result is None else result.n_missing,
                distinguishable=result is not None and result.distinguishable,
            )
            verdict = _tempered(verdict, campaign, contrast, rows)
            answers.append(Answer(contrast=contrast, result=result, verdict=verdict))
    return answers


def _tempered(verdict: Verdict, campaign: Campaign, contrast: Contrast, rows: list[dict[str, Any]]) -> Verdict:
    """A verdict that an untuned rate could explain is inconclusive.

    A baseline at the edge of its grid cannot be beaten for certain, nor can a method at the edge of its own be refuted.
    """
    grids = {method.name: method.lrs for method in campaign.methods}
    chosen = {row["method"]: row["lr"] for row in rows if row["stage"] == "comparison"}
    tuned = [name for name in contrast.suspects(verdict.label) if len(grids[name]) > 1]
    edge = [name for name in tuned if chosen.get(name) in (grids[name][0], grids[name][-1])]
    if not edge:
        return verdict
    why = f"would be {verdict.label}, but the best rate of {' and '.join(edge)} may lie beyond its grid"
    return Verdict("inconclusive", verdict.effect, why, f"{verdict.reason} But: {why}.", None)


def _simplifications(campaign: Campaign, answers: list[Answer]) -> list[Simplification]:
    """Every method that leaves something out of its baseline, in the order of the experiment file."""
    found = []
    for method in campaign.methods:
        for answer in answers:
            if method.leaves_out and answer.contrast.weights.get(method.name) == 1.0:
                missing = 0 if answer.result is None else answer.result.n_missing
                label = judge_simplicity(campaign.rule, answer.verdict.effect, n_missing=missing)
                found.append(Simplification(method=method, answer=answer, label=label))
    return found


def _winner(campaign: Campaign, answers: list[Answer]) -> str | None:
    """The method of largest gain among those whose verdict is *supported*, where a gain is what is predicted."""
    gains = {
        next(name for name, weight in a.contrast.weights.items() if weight > 0): a.verdict.effect.mean
        for a in answers
        if a.verdict.label == "supported" and a.verdict.effect is not None
    }
    return min(gains, key=gains.__getitem__) if gains and campaign.rule.predicted == "lower" else None


def _summary(
    campaign: Campaign,
    method: Method,
    rows: list[dict[str, Any]],
    metric: str,
    comparison: Array,
    undecayed_seconds: float | None,
    rng: np.random.Generator,
) -> MethodSummary:
    mine = [row for row in rows if row["method"] == method.name]
    tuned = {(row["lr"], row["seed"]): row.get(metric, math.nan) for row in mine if row["stage"] == "tuning"}
    seeds = sorted({seed for _, seed in tuned})
    tuning = np.array([[tuned.get((lr, seed), math.nan) for lr in method.lrs] for seed in seeds])
    final = [row for row in mine if row["stage"] == "comparison"]
    baseline = campaign.baseline_of(method)
    base = {r["seed"]: r for r in rows if r["stage"] == "comparison" and r["method"] == baseline}
    complete = len(tuning) and np.isfinite(tuning).all(axis=0).any()
    speedups = [_speedup(row, base.get(row["seed"])) for row in final]
    speeds = [row["tokens_per_second"] for row in final if "tokens_per_second" in row]
    ratios = [
        row["tokens_per_second"] / base[row["seed"]]["tokens_per_second"]
        for row in final
        if "tokens_per_second" in row and "tokens_per_second" in base.get(row["seed"], {})
    ]
    return MethodSummary(
        method=method,
        tuning=tuning,
        chosen_lr=final[0]["lr"] if final else None,
        optimum=best_lr(method.lrs, tuning, rng, tolerance=campaign.rule.smallest_effect) if complete else None,
        comparison=comparison,
        speedup=np.array(speedups),
        time_share=np.array(
            [
                s * base[r["seed"]]["tokens_per_second"] / r["tokens_per_second"] if s == s else s
                for s, r in zip(speedups, final, strict=True)
            ]
        ),
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        tokens_per_second_ratio=float(np.median(ratios)) if ratios else None,
        telemetry=_mean_telemetry(final),
        pace=None
        if undecayed_seconds is None
        else pace_of(final, list(base.values()), undecayed_seconds=undecayed_seconds),
    )


def _speedup(row: dict[str, Any], base: dict[str, Any] | None) -> float:
    """Find the share of the baseline's steps that reaches its final loss on the same seed; inf: never reached."""
    if base is None or "val" not in row or "final_val_loss" not in base:
        return math.nan
    return steps_to_reach(row["val"]["step"], row["val"]["loss"], base["final_val_loss"]) / base["steps"]


def _mean_telemetry(rows: list[dict[str, Any]]) -> dict[str, tuple[Array, Array]]:
    measured = [row["telemetry"] for row in rows if row["status"] == "done" and row["telemetry"]["step"]]
    if not measured:
        return {}
    length = min(len(t["step"]) for t in measured)  # runs that end by the clock are not of one length
    if any(t["step"][:length] != measured[0]["step"][:length] for t in measured):
        return {}
    names = set.intersection(*(set(t) for t in measured)) - {"step"}
    step = np.array(measured[0]["step"][:length], dtype=np.float64)
    return {
        name: (step, np.array([t[name][:length] for t in measured], dtype=np.float64).mean(axis=0))
        for name in sorted(names)
    }


def _idle_arms(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """C11: arms of one stage and seed with equal weights, to the bit, after the first step and at the end."""
    seen: dict[tuple[str, int, str], str] = {}
    idle = set()
    for row in rows:
        digest = row.get("first_sha256", "") + row.get("final_sha256", "")
        if "final_sha256" in row:
            key, name = (row["stage"], row["seed"], digest), f"{row['method']}, lr {row['lr']:g}"
            if seen.setdefault(key, name) != name:
                idle.add((seen[key], name))
    return sorted(idle)


def mean_interval(values: Array) -> tuple[float, float, float] | None:
    """Mean and 95% t interval of a sample (n,); None for fewer than two finite values."""
    finite = values[np.isfinite(values)]
    if finite.size < 2:
        return None
    d = paired_difference(finite, np.zeros_like(finite), np.random.default_rng(0), resamples=0)
    return d.mean, d.t_low, d.t_high
