"""The numbers of a study of rates across widths, from its collected data. Pure, no torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ngpt.campaign.analysis.analyze import mean_after_first
from ngpt.campaign.analysis.statistics import LEVEL, Array
from ngpt.campaign.definition import Method
from ngpt.campaign.transfer.definition import Quantity, ScalingRule, Transfer

State = Literal["holds", "ruled out", "open"]
"""of a rule for a method. `holds`: the interval of the exponent lies within the tolerance of the rule's; `ruled out`:
it does not contain the rule's, and the exponent differs from it by more than the tolerance; `open`: neither"""

Seeds = NDArray[np.int_]
"""indices of the seeds that an estimate uses"""

ANGLE = "rotation_hidden_rad"
"""telemetry: mean angle by which the hidden vectors turned in a step"""

NEAR = 0.25
"""nats per token above the lowest mean loss, within which rates belong to the parabola"""


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
    """mean angle per step of the hidden vectors over steps, as `mean_after_first`, and seeds, (rates,), rad; NaN: not
    known"""
    losses: Array
    """(seeds, rates); NaN where a run has no result"""
    best_rate: Estimate | None
    """rate at which the loss is lowest, with its own 95% interval; None where `lowest` finds none, with all seeds or
    without one"""
    best_angle: Estimate | None
    """the same of the angle per step, from the mean angles at the rates beside it"""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A rule for one method."""

    rule: ScalingRule
    state: State
    costs: dict[int, Estimate | None]
    """by width: loss at the rate or angle that the rule predicts from the best at the base width, minus the lowest"""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One method across widths."""

    method: str
    scans: list[Scan]
    """by increasing width"""
    exponents: Mapping[Quantity, Estimate | None]
    """of the best angle per step and of the best rate in width, each with an interval that holds jointly for all
    methods; None where a best rate is not known"""
    check: Estimate | None
    """the exponent of the best angle, if only the lowest loss and its two neighbors made the parabola"""
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
    measured = [[row.get("telemetry", {}) for row in of_seed] for of_seed in found]
    angles = np.array([[mean_after_first(one["step"], one[ANGLE]) if ANGLE in one else math.nan for one in of_seed]
                       for of_seed in measured])  # fmt: skip
    known = np.isfinite(angles).any(axis=0)
    return np.where(known, np.nanmean(np.where(known, angles, 0.0), axis=0), math.nan), losses


def _scaling(study: Transfer, method: str, places: list[tuple[Array, Array]]) -> Scaling:
    widths = np.log(np.array(study.widths) / study.base)
    rates = [np.log(study.rates(method, width)) for width in study.widths]
    angles, losses = [np.log(place[0]) for place in places], np.stack([place[1] for place in places])
    base, joint, n = study.widths.index(study.base), LEVEL / len(study.methods), losses.shape[1]

    def best_rates(kept: Seeds, near: float = NEAR) -> Array:
        means = losses[:, kept].mean(axis=1)
        return np.array([lowest(x, mean, near)[0] for x, mean in zip(rates, means, strict=True)])

    def best_angles(kept: Seeds, near: float = NEAR) -> Array:
        found = best_rates(kept, near)
        return np.array([np.interp(best, x, y) for best, x, y in zip(found, rates, angles, strict=True)])

    best: dict[Quantity, Callable[[Seeds], Array]] = {"angle": best_angles, "rate": best_rates}

    def slope(find: Callable[[Seeds], Array], kept: Seeds) -> float:
        return float(np.polynomial.polynomial.polyfit(widths, find(kept), 1)[1])

    def optimum(of: Quantity, place: int, kept: Seeds) -> float:
        return float(best[of](kept)[place])

    def cost(rule: ScalingRule, place: int, kept: Seeds) -> float:
        found = best[rule.of](kept)
        missed = found[base] + rule.exponent * widths[place] - found[place]
        return lowest(rates[place], losses[place][kept].mean(axis=0))[1] * float(missed) ** 2

    exponents: dict[Quantity, Estimate | None] = {of: jackknife(partial(slope, best[of]), n, joint) for of in best}
    scans = []
    for place, width in enumerate(study.widths):
        at = {of: jackknife(partial(optimum, of, place), n, LEVEL) for of in best}
        scans.append(Scan(method=method, width=width, rates=study.rates(method, width), angles=np.exp(angles[place]),
                          losses=losses[place], **{f"best_{of}": one and one.map(math.exp) for of, one in at.items()}))
    tested = [
        Tested(rule=rule, state=judge(rule, exponents[rule.of], study.tolerance), costs={
            width: jackknife(partial(cost, rule, place), n, LEVEL)
            for place, width in enumerate(study.widths) if width != study.base
        })
        for rule in study.rules_of(method)
    ]  # fmt: skip
    check = jackknife(partial(slope, partial(best_angles, near=0.0)), n, joint)
    return Scaling(method=method, scans=scans, exponents=exponents, check=check, tested=tested)


def judge(rule: ScalingRule, exponent: Estimate | None, tolerance: float) -> State:
    """Return what the interval of an exponent says about a rule."""
    if exponent is None:
        return "open"
    if max(exponent.high - rule.exponent, rule.exponent - exponent.low) <= tolerance:
        return "holds"
    excluded = not exponent.low <= rule.exponent <= exponent.high
    return "ruled out" if excluded and abs(exponent.value - rule.exponent) > tolerance else "open"


def lowest(rates: Array, mean: Array, near: float = NEAR) -> tuple[float, float]:
    """Find the best rate and the curvature of a parabola, by least squares through the points near the lowest.

        loss = loss* + c (log rate - log rate*)^2

    rates: logarithms, (rates,). mean: losses, (rates,). near: points more than this above the lowest are left out,
    except its two neighbors. Returns log rate* and c, both NaN if the lowest point is an end of the grid, if a neighbor
    is not known, or if the parabola has no minimum within the grid.
    """
    if not np.isfinite(mean).any():
        return math.nan, math.nan
    i = int(np.nanargmin(mean))
    if i in (0, len(mean) - 1) or not np.isfinite(mean[i - 1 : i + 2]).all():
        return math.nan, math.nan
    used = mean <= mean[i] + near
    used[i - 1 : i + 2] = True
    center = float(rates[i])
    _, linear, c = np.polynomial.polynomial.polyfit(rates[used] - center, mean[used], 2)
    if c <= 0 or not rates[0] < (best := center - linear / (2 * c)) < rates[-1]:
        return math.nan, math.nan
    return float(best), float(c)


def jackknife(estimator: Callable[[Seeds], float], n: int, level: float) -> Estimate | None:
    """Estimate a number from n seeds, with the t interval of Tukey's pseudo-values.

        e +- t_{n-1} sd(v) / sqrt(n),  with the pseudo-values v_s = n e - (n - 1) e_(-s)

    level: one minus the confidence. Returns None if the number is not finite with all seeds or without one of them.
    Source: J. W. Tukey 1958.
    """
    everything = np.arange(n)
    value = estimator(everything)
    without = np.array([estimator(np.delete(everything, seed)) for seed in range(n)])
    if not np.isfinite([value, *without]).all():
        return None
    error = math.sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
    half = float(stats.t.ppf(1 - level / 2, n - 1)) * error
    return Estimate(value=value, low=value - half, high=value + half)
