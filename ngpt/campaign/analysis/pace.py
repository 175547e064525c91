"""Compare methods at equal steps and at equal time, for runs that end by the clock. Pure, no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ngpt.campaign.analysis.statistics import Array


@dataclass(frozen=True, kw_only=True)
class Pace:
    """A method against its baseline, seed by seed; all arrays (seeds,).

    Before the rate of either decays or, with a schedule that decays from the start, at any time. At equal steps the
    rate of the slower method is then the lower one, which favors it.
    """

    steps_ratio: Array
    """steps within the budget, relative to the baseline's"""
    at_equal_steps: Array
    """difference of validation loss after the latest step at which both were validated, nats per token"""
    at_equal_time: Array
    """the same at the latest training time that both reached, interpolated linearly between validations"""


def pace_of(rows: list[dict[str, Any]], baseline: list[dict[str, Any]], *, undecayed_seconds: float) -> Pace:
    """Return the pace of a method's runs against those of its baseline on the same seeds.

    rows: as collected. undecayed_seconds: training time until a schedule that is constant at first begins its decay, or
    the whole of it. Seeds on which either has fewer than two validations by then are left out.
    """
    other = {row["seed"]: row for row in baseline if "val" in row}
    ratio: list[float] = []
    steps: list[float] = []
    time: list[float] = []
    for row in rows:
        if "val" not in row or row["seed"] not in other:
            continue
        mine, base = (_until(r["val"], undecayed_seconds) for r in (row, other[row["seed"]]))
        common = np.intersect1d(mine["step"], base["step"])
        if len(common) < 2:
            continue
        ratio.append(row["steps"] / other[row["seed"]]["steps"])
        latest = min(mine["seconds"][-1], base["seconds"][-1])
        for found, axis, place in ((steps, "step", common[-1]), (time, "seconds", latest)):
            ours, theirs = (np.interp(place, curve[axis], curve["loss"]) for curve in (mine, base))
            found.append(ours - theirs)
    return Pace(steps_ratio=np.array(ratio), at_equal_steps=np.array(steps), at_equal_time=np.array(time))


def _until(curve: dict[str, list[float]], seconds: float) -> dict[str, Array]:
    kept = np.array(curve["seconds"]) <= seconds
    return {name: np.array(values, dtype=np.float64)[kept] for name, values in curve.items()}
