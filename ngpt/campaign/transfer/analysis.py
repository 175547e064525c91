"""The numbers of a study of rates across widths, from its collected data. Pure, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ngpt.campaign.analysis.statistics import LEVEL, Array
from ngpt.campaign.definition import Method
from ngpt.campaign.transfer.definition import ScalingRule, Transfer

State = Literal["holds", "ruled out", "open"]
"""of a rule for a method. `holds`: the interval of the exponent lies within the tolerance of the rule's; `ruled out`:
it does not contain the rule's; `open`: neither"""

Seeds = NDArray[np.int_]
"""indices of the seeds that an estimate uses"""

ANGLE = "rotation_hidden_rad"
"""telemetry: mean angle by which the hidden vectors turned in a step"""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number computed from all seeds, with its interval over seeds."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """Return the estimate of an increasing function of the number."""
        return Estimate(value=function(self.value), low=function(self.low), high=function(self.high))


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One method at one width, over its grid of rates."""

    method: str
    width: int
    rates: tuple[float, ...]
    angles: Array
    """mean angle per step of the hidden vectors over measured steps and seeds, (rates,), rad; NaN: not known"""
    losses: Array
    """(seeds, rates); NaN where a run has no result"""
    best: Estimate | None
    """angle per step at which the loss is lowest, with its own 95% interval; None where that is at an end of the grid,
    with all seeds or without one"""

    @property
    def best_rate(self) -> float | None:
        """The rate that turns the vectors by the best angle, between two rates of the grid."""
        if self.best is None:
            return None
        return math.exp(np.interp(math.log(self.best.value), np.log(self.angles), np.log(self.rates)))


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A rule for one method."""

    rule: ScalingRule
    state: State
    costs: dict[int, Estimate | None]
    """by width: loss at the angle that the rule gives from the best at the base width, minus the lowest"""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One method across widths."""

    method: str
    scans: list[Scan]
    """by increasing width"""
    exponent: Estimate | None
    """of the best angle per step in width, with an interval that holds jointly for all methods; None where a best angle
    is not known"""
    rate_exponent: Estimate | None
    """the same of the rate: that of the angle plus that of rates of equal angle"""
    tested: list[Tested]


def find(study: Transfer, data: dict[str, Any]) -> list[Scaling]:
    """Compute a study's numbers from its collected data."""
    return [_scaling(study, name, [_scan_data(arms, data) for _, arms in sorted(places, key=lambda place: place[0])])
            for name, places in study.arms(data["preset"]).items()]  # fmt: skip


def _scan_data(arms: list[Method], data: dict[str, Any]) -> tuple[Array, Array]:
    """Return the angles (rates,) and the losses (seeds, rates) of the arms at one width."""
    rows = {(row["method"], row["seed"]): row for row in data["runs"]}
    seeds = sorted({seed for _, seed in rows})
    found = [[rows.get((arm.name, seed), {}) for arm in arms] for seed in seeds]
    losses = np.array([[row.get("final_val_loss", math.nan) for row in of_seed] for of_seed in found])
    angles = np.array([[_mean_angle(row) for row in of_seed] for of_seed in found])
    known = np.isfinite(angles).any(axis=0)
    return np.where(known, np.nanmean(np.where(known, angles, 0.0), axis=0), math.nan), losses


def _mean_angle(row: dict[str, Any]) -> float:
    values = np.array(row.get("telemetry", {}).get(ANGLE, []), dtype=np.float64)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _scaling(study: Transfer, method: str, places: list[tuple[Array, Array]]) -> Scaling:
    widths = np.array(study.widths, dtype=np.float64)
    angles, losses = [place[0] for place in places], np.stack([place[1] for place in places])
    joint = LEVEL / len(study.methods)

    def optima(kept: Seeds) -> Array:
        return np.array([lowest(x, table[kept].mean(axis=0))[0] for x, table in zip(angles, losses, strict=True)])

    def optimum(place: int, kept: Seeds) -> float:
        return float(optima(kept)[place])

    def slope(kept: Seeds) -> float:
        return float(np.polynomial.polynomial.polyfit(np.log(widths), optima(kept), 1)[1])

    def cost(rule: ScalingRule, place: int, kept: Seeds) -> float:
        best = optima(kept)
        carried = best[study.widths.index(study.base)] + rule.exponent * math.log(widths[place] / study.base)
        return lowest(angles[place], losses[place][kept].mean(axis=0))[1] * float(carried - best[place]) ** 2

    n = losses.shape[1]
    exponent = jackknife(slope, n, joint)
    scans = []
    for place, width in enumerate(study.widths):
        best = jackknife(partial(optimum, place), n, LEVEL)
        scans.append(Scan(method=method, width=width, rates=study.rates(method, width), angles=angles[place],
                          losses=losses[place], best=best and best.map(math.exp)))  # fmt: skip
    tested = [
        Tested(rule=rule, state=judge(rule, exponent, study.tolerance), costs={
            width: jackknife(partial(cost, rule, place), n, LEVEL)
            for place, width in enumerate(study.widths) if width != study.base
        })
        for rule in study.rules_of(method)
    ]  # fmt: skip
    shift = study.methods[method].exponent
    return Scaling(method=method, scans=scans, exponent=exponent, tested=tested,
                   rate_exponent=exponent and exponent.map(lambda value: value + shift))  # fmt: skip


def judge(rule: ScalingRule, exponent: Estimate | None, tolerance: float) -> State:
    """Return what the interval of an exponent says about a rule."""
    if exponent is None:
        return "open"
    if max(exponent.high - rule.exponent, rule.exponent - exponent.low) <= tolerance:
        return "holds"
    return "open" if exponent.low <= rule.exponent <= exponent.high else "ruled out"


def lowest(angles: Array, mean: Array) -> tuple[float, float]:
    """Find log angle and curvature at the minimum of the parabola through the lowest point and its two neighbors.

        loss = loss* + c (log angle - log angle*)^2

    angles, mean: (rates,). Returns log angle* and c, both NaN if the lowest point is an end of the grid, or if it or a
    neighbor is not known.
    """
    if not np.isfinite(mean).any():
        return math.nan, math.nan
    i = int(np.nanargmin(mean))
    near = slice(max(i - 1, 0), i + 2)
    x, y = np.log(angles[near]), mean[near]
    if len(x) < 3 or not np.isfinite([x, y]).all():
        return math.nan, math.nan
    _, linear, c = np.polynomial.polynomial.polyfit(x - x[1], y, 2)
    return (float(x[1] - linear / (2 * c)), float(c)) if c > 0 else (math.nan, math.nan)


def jackknife(estimator: Callable[[Seeds], float], n: int, level: float) -> Estimate | None:
    """Estimate a number from n seeds, with the t interval of Tukey's pseudo-values.

        v_s = n e - (n - 1) e_(-s),  mean(v) +- t_{n-1} sd(v) / sqrt(n)  around e

    level: one minus the confidence. None if the number is not
    finite with all seeds or without one of them. Source: J. W. Tukey 1958.
    """
    everything = np.arange(n)
    value = estimator(everything)
    without = np.array([estimator(np.delete(everything, seed)) for seed in range(n)])
    if not np.isfinite([value, *without]).all():
        return None
    error = math.sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
    half = float(stats.t.ppf(1 - level / 2, n - 1)) * error
    return Estimate(value=value, low=value - half, high=value + half)
