"""Collected data -> every number of the report: tables, intervals, verdicts. Pure, seeded, no torch."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngpt.campaign.analysis.pace import Pace, pace_of
from ngpt.campaign.analysis.statistics import (
    Array,
    LrOptimum,
    PairedDifference,
    best_lr,
    losses_at_optimum,
    sample_mean,
    share_of_descent,
    steps_to_reach,
)
from ngpt.campaign.analysis.verdict import Answer, Simplicity, judge_campaign, judge_simplicity
from ngpt.campaign.definition import Campaign, Method, rates_text
from ngpt.campaign.definition.plan import FINISHED
from ngpt.config import DECAYING

BOOTSTRAP_SEED = 20241001

Row = dict[str, Any]
"""One run in the collected data"""


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method over its grid and at the rate that tuning chose."""

    method: Method
    tuning: Array
    """metric on the tuning seeds, (seeds, rates); NaN where a run has no result"""
    aux_tuning: Array
    """the same at the chosen hidden rate, (seeds, auxiliary rates); no rates if that is not tuned"""
    chosen_lr: float | None
    chosen_aux_lr: float | None
    """None also where the auxiliary rate is not tuned"""
    optimum: LrOptimum | None
    aux_optimum: LrOptimum | None
    at_optimum: Array | None
    """metric on the tuning seeds at the fitted optimum of the rate that was tuned last, (seeds,)"""
    tuning_runs: int
    """runs of both stages of tuning"""
    comparison_runs: int
    hours: float
    """time of all these runs, training and validation"""
    comparison: Array
    """metric at the chosen rate on the comparison seeds, (seeds,)"""
    speedup: Array
    """share of its rival's steps after which this method reaches the rival's final loss, (seeds,); inf: never. Its
    rival is its baseline; a baseline's rival is that of another family (`Campaign.rival_of`)"""
    time_share: Array
    """the same as a share of the rival's training time, on one machine, (seeds,); NaN if they ran on two"""
    tokens_per_second: float | None
    """median over the comparison runs"""
    tokens_per_second_ratio: float | None
    """median over seeds of the method's throughput relative to its rival's"""
    telemetry: dict[str, tuple[Array, Array]]
    """(steps, mean over the comparison seeds) by quantity"""
    pace: Pace | None
    """against its rival, where runs end by the clock"""

    @property
    def chosen(self) -> str:
        """The rates that tuning chose, as shown to people."""
        return "–" if self.chosen_lr is None else rates_text(self.chosen_lr, self.chosen_aux_lr)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A campaign's numbers."""

    summaries: list[MethodSummary]
    answers: list[Answer]
    exchange: dict[str, float]
    """by contrast of a method and another: the share of training, at its end, in which the other's loss fell by as much
    as the effect; inf: more than since its first validation"""
    at_optima: dict[str, PairedDifference]
    """by contrast: the effect at the fitted optima, on the tuning seeds; absent where one lies beyond its grid"""
    simplifications: list[tuple[Method, Answer, Simplicity]]
    """each method that does without something, its answer, and whether that costs anything"""
    winner: str | None
    """the best of the methods that are better than their baseline"""
    noise_floors: dict[str, float]
    """standard deviation of each baseline over the comparison seeds, with the seed effects that pairing removes"""
    paired_noise: float | None
    """standard deviation over seeds of a method's difference to its baseline, pooled; None with fewer than two seeds"""
    idle: list[tuple[str, str]]
    """pairs of arms whose weights are equal after the first step and at the end"""
    counts: dict[str, int]
    """runs by status"""
    complete: bool
    """whether every planned run has ended by itself"""

    def questions(self) -> dict[str, list[Answer]]:
        """Return the answers by question."""
        asked = dict.fromkeys(answer.contrast.question for answer in self.answers)
        return {question: [a for a in self.answers if a.contrast.question == question] for question in asked}


def analyze(campaign: Campaign, data: dict[str, Any]) -> Analysis:
    """Compute all figures of a report from its collected data."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    rows, rule = data["runs"], campaign.rule
    final = [row for row in rows if row["stage"] == "comparison"]
    values = {(row["method"], row["seed"]): row.get(rule.metric, math.nan) for row in final}
    seeds = sorted({seed for _, seed in values})
    names = [method.name for method in campaign.methods]
    columns = {name: np.array([values.get((name, seed), math.nan) for seed in seeds], np.float64) for name in names}
    table = np.stack(list(columns.values()), axis=1)
    rates, aux_rates = rates_of(campaign, final)
    tuned = [row for row in rows if row["stage"] in ("tuning", "auxiliary")]
    lost = Counter(row["method"] for row in tuned if row["status"] not in FINISHED)
    answers, winner = judge_campaign(campaign, table, rates, aux_rates=aux_rates, lost_in_tuning=lost)

    training, undecayed = data["training"], None
    if training.get("budget_seconds") is not None:
        undecayed = training["budget_seconds"] * (1 - training["decay_share"] if ends_with_decay(training) else 1)
    of_methods = {contrast.name for contrast in campaign.against_baselines()}
    plain = [answer for answer in answers if answer.contrast.name in of_methods]
    spreads = [a.verdict.effect.sd for a in plain if a.verdict.effect is not None]
    counts = Counter(row["status"] for row in rows)
    summaries = [_summary(campaign, m, data, columns[m.name], undecayed, rng) for m in campaign.methods]
    return Analysis(
        summaries=summaries, answers=answers, winner=winner,
        exchange=_exchange(answers, final, rule.metric), at_optima=_at_optima(answers, summaries),
        simplifications=[
            (m, a, judge_simplicity(
                a.contrast.rule, a.verdict.effect, n_missing=a.result.n_missing, doubted=bool(a.doubts["better"])))
            for m in campaign.methods for a in plain if m.leaves_out and a.contrast.weights.get(m.name) == 1.0
        ],
        noise_floors={name: mean.sd for name in campaign.baselines if (mean := sample_mean(columns[name])) is not None},
        paired_noise=float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
        idle=_idle_arms(campaign, rows), counts=dict(counts),
        complete=len(rows) == data["planned_runs"] and counts["done"] + counts["diverged"] == len(rows),
    )  # fmt: skip


def rates_of(campaign: Campaign, final: Iterable[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the hidden rate of each method in comparison runs, and its auxiliary rate if that is tuned."""
    rates = {row["method"]: (row["lr"], row.get("aux_lr")) for row in final}
    aux_rates = {name: aux_lr for name, (_, aux_lr) in rates.items() if campaign.aux_lrs and aux_lr is not None}
    return {name: lr for name, (lr, _) in rates.items()}, aux_rates


def ends_with_decay(training: dict[str, Any]) -> bool:
    """Return whether the rates of all runs are constant for a while and then decay, as the collected data say."""
    return training["schedule"] in DECAYING["schedule"] and 0 < training["decay_share"] < 1


def _summary(
    campaign: Campaign, method: Method, data: dict[str, Any], comparison: Array, undecayed: float | None,
    rng: np.random.Generator,
) -> MethodSummary:  # fmt: skip
    rows, rule = data["runs"], campaign.rule
    mine = [row for row in rows if row["method"] == method.name]
    tuning_rows = [row for row in mine if row["stage"] in ("tuning", "auxiliary")]
    tuning = _tuned([row for row in mine if row["stage"] == "tuning"], "lr", method.lrs, rule.metric)
    final = [row for row in mine if row["stage"] == "comparison"]
    lr = next((row["lr"] for row in (*final, *mine[::-1]) if row["stage"] in ("comparison", "auxiliary")), None)
    aux_tuning = _tuned([row for row in tuning_rows if row["lr"] == lr], "aux_lr", campaign.aux_lrs, rule.metric)

    def best(lrs: tuple[float, ...], table: Array) -> LrOptimum | None:
        complete = table.size and np.isfinite(table).all(axis=0).any()
        return best_lr(lrs, table, rng, tolerance=rule.smallest_effect) if complete else None

    tuned_last = (campaign.aux_lrs, aux_tuning) if campaign.aux_lrs else (method.lrs, tuning)
    rival = campaign.rival_of(method)
    base = {r["seed"]: r for r in rows if r["stage"] == "comparison" and r["method"] == rival}
    speedups = [share_of_steps(row, base.get(row["seed"])) for row in final]
    speeds = {row["seed"]: row["tokens_per_second"] for row in final if "tokens_per_second" in row}
    places = {row["seed"]: machine_of(row, data) for row in final}
    beside = {seed: row["tokens_per_second"] for seed, row in base.items()
              if "tokens_per_second" in row and machine_of(row, data) == places.get(seed)}  # fmt: skip
    ratios = {seed: speed / beside[seed] for seed, speed in speeds.items() if seed in beside}
    shares = [share / ratios.get(row["seed"], math.nan) for share, row in zip(speedups, final, strict=True)]
    return MethodSummary(
        method=method, tuning=tuning, aux_tuning=aux_tuning, chosen_lr=final[0]["lr"] if final else None,
        chosen_aux_lr=final[0]["aux_lr"] if final and campaign.aux_lrs else None,
        optimum=best(method.lrs, tuning), aux_optimum=best(campaign.aux_lrs, aux_tuning),
        at_optimum=losses_at_optimum(*tuned_last) if tuned_last[1].size else None,
        tuning_runs=len(tuning_rows), comparison_runs=len(final),
        hours=sum(row.get("train_seconds", 0.0) + row.get("eval_seconds", 0.0) for row in mine) / 3600,
        comparison=comparison, speedup=np.array(speedups), time_share=np.array(shares),
        tokens_per_second=float(np.median(list(speeds.values()))) if speeds else None,
        tokens_per_second_ratio=float(np.median(list(ratios.values()))) if ratios else None,
        telemetry=_mean_telemetry(final),
        pace=pace_of(final, list(base.values()), undecayed_seconds=undecayed) if undecayed is not None else None,
    )  # fmt: skip


def machine_of(row: Row, data: dict[str, Any]) -> dict[str, Any]:
    """Return on what a run was carried out, with which versions; empty in data from before rows said so."""
    environment = data["environments"][row["environment"]] if "environment" in row else {}
    return {name: value for name, value in environment.items() if name not in ("commit", "runs")}


def _exchange(answers: list[Answer], final: list[Row], metric: str) -> dict[str, float]:
    found = {}
    for answer in answers:
        pair, effect = answer.contrast.pair, answer.verdict.effect
        if pair is None or effect is None or metric != "final_val_loss":
            continue
        curves = [row["val"] for row in final if row["method"] == pair[1] and "final_val_loss" in row and "val" in row]
        if curves and all(curve["step"] == curves[0]["step"] for curve in curves):
            mean = np.mean([curve["loss"] for curve in curves], axis=0)
            found[answer.contrast.name] = share_of_descent(curves[0]["step"], mean, abs(effect.mean))
    return found


def _at_optima(answers: list[Answer], summaries: list[MethodSummary]) -> dict[str, PairedDifference]:
    losses = {summary.method.name: summary.at_optimum for summary in summaries}
    found = {}
    for answer in answers:
        needed = {name: losses[name] for name, weight in answer.contrast.weights.items() if weight}
        known = {name: values for name, values in needed.items() if values is not None}
        if len(known) == len(needed) and len({len(values) for values in known.values()}) == 1:
            difference = sample_mean(np.sum([answer.contrast.weights[n] * v for n, v in known.items()], axis=0))
            if difference is not None:
                found[answer.contrast.name] = difference
    return found


def _tuned(rows: list[Row], rate: str, grid: tuple[float, ...], metric: str) -> Array:
    """Return the metric at each rate of a grid, (seeds, rates); NaN where a run has no result."""
    found = {(row[rate], row["seed"]): row.get(metric, math.nan) for row in rows if grid}
    seeds = sorted({seed for _, seed in found})
    return np.array([[found.get((value, seed), math.nan) for value in grid] for seed in seeds])


def share_of_steps(row: Row, base: Row | None) -> float:
    """Return the share of the baseline's steps that reaches its final loss on the same seed; inf: never reached."""
    if base is None or "val" not in row or "final_val_loss" not in base:
        return math.nan
    return steps_to_reach(row["val"]["step"], row["val"]["loss"], base["final_val_loss"]) / base["steps"]


def _mean_telemetry(rows: list[Row]) -> dict[str, tuple[Array, Array]]:
    measured = [row["telemetry"] for row in rows if row["status"] == "done" and row["telemetry"]["step"]]
    length = min((len(t["step"]) for t in measured), default=0)  # runs that end by the clock differ in length
    if not measured or any(t["step"][:length] != measured[0]["step"][:length] for t in measured):
        return {}
    names = set.intersection(*(set(t) for t in measured)) - {"step"}
    step = np.array(measured[0]["step"][:length], dtype=np.float64)
    curves = {name: np.array([t[name][:length] for t in measured], dtype=np.float64) for name in sorted(names)}
    return {name: (step, curve.mean(axis=0)) for name, curve in curves.items()}


def mean_after_first(steps: Sequence[float] | Array, values: Sequence[float | None] | Array) -> float:
    """Return the mean of a quantity over the steps at which it was measured, NaN without any.

    The first step of training is left out if there are others: averages of gradients begin there, so that a step is no
    typical one, and among a few measured steps it would have a large weight.
    """
    found, at = np.array(values, dtype=np.float64), np.array(steps, dtype=np.float64)
    later = np.isfinite(found) & (at > 1)
    used = later if later.any() else np.isfinite(found)
    return float(found[used].mean()) if used.any() else math.nan


def _idle_arms(campaign: Campaign, rows: list[Row]) -> list[tuple[str, str]]:
    """Return arms of one seed with equal weights, to the bit, after the first step and at the end."""
    seen: dict[tuple[bool, int, str], str] = {}
    idle = set()
    for row in rows:
        digest = row.get("first_sha256", "") + row.get("final_sha256", "")
        if "final_sha256" in row:
            key = (row["stage"] == "pretraining", row["seed"], digest)
            name = f"{row['method']}, {rates_text(row['lr'], row['aux_lr'] if campaign.aux_lrs else None)}"
            if seen.setdefault(key, name) != name:
                idle.add((seen[key], name))
    return sorted(idle)
