"""The loss at every rate that was tried, against the rate and against the angle by which it turned the vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.analysis.analyze import Analysis, MethodSummary, mean_after_first
from ngpt.campaign.analysis.statistics import LrOptimum
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.figures.looks import (
    IN_BACKGROUND,
    MANY,
    Look,
    families_of,
    looks_of,
    metric_text,
    named_of,
    standing_out,
    without,
)
from ngpt.campaign.report.figures.marks import End, half_width, headline, label_ends, log_ticks, name_rates, name_ticks
from ngpt.campaign.report.style import WIDTH, Axes, Figure, subplots

MOST = 6
"""curves in one panel if there are families, each of which has panels of its own otherwise"""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method's results over a grid of rates."""

    method: str
    rates: NDArray[np.float64]
    """(rates,)"""
    losses: NDArray[np.float64]
    """(seeds, rates); NaN where a run has no result"""
    angles: NDArray[np.float64]
    """mean angle per step over measured steps and seeds, (rates,); NaN where none was measured"""
    optimum: LrOptimum | None

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Return whether all runs of each rate have a result, (rates,)."""
        return np.asarray(np.isfinite(self.losses).all(axis=0))


def draw_loss_against_lr(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw the loss against the hidden rate and against the angle by which it turned the hidden vectors."""
    curves = [
        Curve(method=s.method.name, rates=np.array(s.method.lrs), losses=s.tuning, optimum=s.optimum,
              angles=_angles(data, s, "lr", s.method.lrs, "hidden"))
        for s in analysis.summaries if len(s.tuning)
    ]  # fmt: skip
    if not curves:
        return None
    return _draw(campaign, analysis, curves, "learning rate of the hidden matrices", "hidden vectors")


def draw_loss_against_aux_lr(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw the loss against the auxiliary rate and against the angle by which it turned the embedding's vectors."""
    curves = [
        Curve(method=s.method.name, rates=np.array(campaign.aux_lrs), losses=s.aux_tuning, optimum=s.aux_optimum,
              angles=_angles(data, s, "aux_lr", campaign.aux_lrs, "embedding"))
        for s in analysis.summaries if s.aux_tuning.size
    ]  # fmt: skip
    if not curves:
        return None
    return _draw(campaign, analysis, curves, "auxiliary rate, each method at its chosen hidden rate",
                 "embedding's vectors")  # fmt: skip


def _angles(
    data: dict[str, Any], summary: MethodSummary, rate: str, grid: Sequence[float], role: str
) -> NDArray[np.float64]:  # fmt: skip
    """Return the mean angle per step at each rate of a grid: over steps, as `mean_after_first`, then over seeds."""
    at: dict[float, list[float]] = {value: [] for value in grid}
    for row in data["runs"]:
        mine = row["method"] == summary.method.name and row["stage"] in ("tuning", "auxiliary")
        tuned = row["stage"] == "tuning" if rate == "lr" else row.get("lr") == summary.chosen_lr
        if not mine or not tuned or row.get(rate) not in at:
            continue
        measured, name = row.get("telemetry", {}), f"rotation_{role}_rad"
        if name in measured and np.isfinite(mean := mean_after_first(measured["step"], measured[name])):
            at[row[rate]].append(mean)
    return np.array([np.mean(found) if found else np.nan for found in at.values()])


def _draw(campaign: Campaign, analysis: Analysis, curves: Sequence[Curve], label: str, vectors: str) -> Figure:
    """Draw all curves, by family if there are many, left against the rate and right against the angle.

    Where the vectors of a family's models have no length to keep, nothing turns by an angle, and there is no right.
    """
    looks = looks_of(campaign)
    families = families_of(campaign, [curve.method for curve in curves])
    if len(curves) <= MOST or len(families) < 2:
        families = {"": [curve.method for curve in curves]}
    turning = {curve.method for curve in curves if (curve.whole & (curve.angles > 0)).any()}
    measured = bool(turning)
    most = max(map(len, families.values()))
    height = 0.9 + len(families) * max(3.0 if len(families) == 1 else 2.0, 0.25 + 0.16 * min(most, MANY))
    figure, grid = subplots(WIDTH if measured else 0.75 * WIDTH, height, len(families), 1 + measured, sharey="row",
                            squeeze=False, sharex="col")  # fmt: skip
    ends: dict[Axes, list[End]] = {}
    unnamed, lowest = 0, grid[-1, -1]
    for axes, (family, names) in zip(grid, families.items(), strict=True):
        strong = standing_out(campaign, analysis, names)
        named = named_of(campaign, analysis, names)
        mine = [curve for curve in curves if curve.method in named]
        for curve in curves:
            if curve.method in names and curve.method not in named:
                for one, place in zip(axes, (curve.rates, curve.angles)[: len(axes)], strict=True):
                    shown = curve.whole & (place > 0)
                    one.plot(place[shown], curve.losses[:, shown].mean(axis=0), **IN_BACKGROUND)
                unnamed += 1
        _draw_curves(axes[0], mine, [curve.rates for curve in mine], looks, strong, optima=len(curves) < 4)
        if measured:
            _draw_curves(axes[1], mine, [curve.angles for curve in mine], looks, strong, optima=False)
        turned, rest = ([curve for curve in mine if (curve.method in turning) == here] for here in (True, False))
        if turned:
            ends[axes[1]] = _ends(family, turned, [curve.angles for curve in turned], looks, strong)
            lowest = axes[1]
        elif measured:
            axes[1].set_axis_off()
        if rest:
            ends[axes[0]] = _ends(family, rest, [curve.rates for curve in rest], looks, strong)
        axes[0].set_ylabel(metric_text(campaign))
        axes[0].set_title(family)
        _set_range(axes[0], mine, others=len(mine) < len(names))
    width = (0.36 if measured else 0.6) * WIDTH
    name_rates(grid[0, 0], sorted({float(rate) for curve in curves for rate in curve.rates}), width)
    grid[-1, 0].set_xlabel(label)
    if measured:
        angles = np.concatenate([curve.angles[curve.whole & (curve.angles > 0)] for curve in curves])
        name_ticks(grid[0, 1], "x", log_ticks(float(angles.min()) / 1.05, float(angles.max()) * 1.05))
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(f"mean angle by which the {vectors} turn per step [rad]")
    few = len(curves) < 4
    says = "Mean, seeds as dots, and 95% interval over seeds" + ("" if few else " of baseline and best")
    says += "; dotted: fitted optimum, shaded: its range over resampled seeds" if few and any(
        c.optimum is not None and not c.optimum.at_edge for c in curves) else ""
    says += "; ×: a run without a result" if any(not curve.whole.all() for curve in curves) else ""
    says += f"; in light gray {unnamed} more" if unnamed else ""
    headline(figure, says)
    label_ends(figure, ends)
    return figure


def _draw_curves(
    axes: Axes, curves: Sequence[Curve], places: Sequence[NDArray[np.float64]], looks: dict[str, Look],
    strong: set[str], *, optima: bool,
) -> None:  # fmt: skip
    """Draw the losses of each curve at its places; with `optima`, the fitted ones too."""
    axes.set_xscale("log")
    for curve, place in zip(curves, places, strict=True):
        look, stands = looks[curve.method], curve.method in strong
        shown = curve.whole & (place > 0)
        table, at, style = curve.losses[:, shown], place[shown], looks[curve.method].of_line(stands)
        if stands:
            axes.errorbar(at, table.mean(axis=0), yerr=half_width(table), marker="o", markersize=4.5, capsize=2.5,
                          elinewidth=1.1, label=curve.method, **style)  # fmt: skip
        else:
            axes.plot(at, table.mean(axis=0), marker="o", markersize=3.5, label=curve.method, **style)
        axes.plot(at, table.T, "o", color=style["color"], alpha=0.45, markersize=2.6, markeredgewidth=0, zorder=2)
        for lost in place[~curve.whole & (place > 0)]:
            axes.plot(lost, 0.99, "x", color=style["color"], transform=axes.get_xaxis_transform(), markersize=5,
                      clip_on=False)  # fmt: skip
        o = curve.optimum
        if optima and o is not None and not o.at_edge:
            axes.axvline(o.lr, color=look.color, linestyle=":", linewidth=1)
            if o.lr_low is not None and o.lr_high is not None:
                axes.axvspan(o.lr_low, o.lr_high, color=look.color, alpha=0.08, linewidth=0)


def _ends(
    family: str, curves: Sequence[Curve], places: Sequence[NDArray[np.float64]], looks: dict[str, Look],
    strong: set[str],
) -> list[End]:  # fmt: skip
    """Return the labels of the curves, each at its point furthest to the right."""
    ends = []
    for curve, place in zip(curves, places, strict=True):
        shown = np.flatnonzero(curve.whole & (place > 0))
        if shown.size:
            last = shown[-1]
            text = without(curve.method, family) if family else curve.method
            ends.append(End(x=float(place[last]), y=float(curve.losses[:, last].mean()), text=text,
                            look=looks[curve.method], strong=curve.method in strong))  # fmt: skip
    return ends


def _set_range(axes: Axes, curves: Sequence[Curve], *, others: bool) -> None:
    """Cut the axis of losses where few points lie far above all, or with `others` in the background above these."""
    means = np.concatenate([curve.losses[:, curve.whole].mean(axis=0) for curve in curves])
    if means.size > 2:
        above = np.sort(means - means.min())
        usual = 3.0 * float(np.quantile(above, 0.75))
        if usual > 0 and (others or above[-1] > usual):
            axes.set_ylim(top=float(means.min()) + min(usual, 1.15 * float(above[-1])))
