"""Draw telemetry of the steps, over training and along a scan, and the cellular automata."""

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.analysis.analyze import Analysis, MethodSummary, mean_after_first
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
from ngpt.campaign.report.figures.marks import (
    BAND,
    Differences,
    End,
    half_width,
    headline,
    label_ends,
    log_ticks,
    name_ticks,
)
from ngpt.campaign.report.style import BLACK, GRAY, GREEN, WIDTH, Axes, Figure, mixed, subplots

LABELS = {
    "rotation_hidden_rad": "angle by which hidden vectors turn per step [rad]",
    "radial_share_hidden": "radial share of hidden updates",
    "drift_hidden": "largest | |w| − 1 | of hidden vectors just before a projection",
    "orthogonality_error": "orthogonality error of hidden updates",
    "drift_head": "largest | |w| − 1 | of head vectors just before a projection",
    "drift_embedding": "largest | |w| − 1 | of embedding vectors just before a projection",
}
OVER_STEPS = ("rotation_hidden_rad", "radial_share_hidden", "drift_hidden", "orthogonality_error")
ALONG_A_SCAN = ("rotation_hidden_rad", "drift_hidden", "drift_head", "drift_embedding")

LINEAR = ("radial_share_hidden",)
"""quantities on a linear axis; all others have a logarithmic one"""

TAIL = 0.025
"""share of all values that may lie outside the axis at one end, where they would squash the rest"""

MOST = 10
"""methods in a panel if there are families, each of which has a column of its own otherwise"""


def draw_scan(campaign: Campaign, analysis: Analysis) -> Figure | None:
    """Draw loss, cost against the baseline, and telemetry along the methods' positions, one line per family."""
    scanned = [s for s in analysis.summaries if s.method.position is not None and np.isfinite(s.comparison).sum() > 1]
    if not scanned:
        return None
    base = {s.method.name: s.comparison for s in analysis.summaries}
    looks = looks_of(campaign)
    panels: dict[str, Callable[[MethodSummary], NDArray[np.float64]]] = {
        metric_text(campaign): lambda s: s.comparison,
        f"paired difference to the baseline [{campaign.rule.unit}]":
            lambda s: s.comparison - base[campaign.baseline_of(s.method)],
        **{LABELS[name]: partial(_mean_telemetry, name) for name in ALONG_A_SCAN},
    }  # fmt: skip
    figure, grid = subplots(WIDTH, 5.6, 2, 3)
    families = dict.fromkeys(s.method.family for s in scanned)
    for axes, (label, measure) in zip(grid.flat, panels.items(), strict=True):
        for family in families:
            members = [s for s in scanned if s.method.family == family]
            values = [found[np.isfinite(found)] for found in map(measure, members)]
            axes.errorbar(
                [s.method.position for s in members], [v.mean() if v.size else np.nan for v in values],
                yerr=[half_width(v) for v in values], marker="o", capsize=2.5, markersize=4, linewidth=1.4,
                elinewidth=1.0, color=looks[campaign.baseline_of(members[0].method)].color, label=family,
            )  # fmt: skip
        axes.set_title(fill(label, 38))
        name_ticks(axes, "x", _apart(sorted({s.method.position for s in scanned if s.method.position is not None})))
    for axes in grid[-1]:
        axes.set_xlabel(campaign.axis)
    smallest = campaign.rule.smallest_effect
    grid.flat[1].axhspan(-smallest, smallest, color=BAND, linewidth=0, zorder=0)
    grid.flat[1].axhline(0, color=BLACK, linewidth=0.9)
    grid.flat[1].yaxis.set_major_formatter(Differences())
    headline(figure, f"Mean and 95% interval over seeds; gray: differences less than {smallest:g}, too small to matter")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(families))
    return figure


def _apart(positions: Sequence[float], most: int = 9) -> Sequence[float]:
    """Return the positions whose labels have room, the first and the last among them."""
    shown = list(positions[:1])
    for position in positions[1:]:
        if position - shown[-1] >= (positions[-1] - positions[0]) / most:
            shown.append(position)
    return shown


def _mean_telemetry(name: str, summary: MethodSummary) -> NDArray[np.float64]:
    """Return the mean of a quantity over steps, as `mean_after_first` (1,), so that no interval is shown."""
    return np.array([mean_after_first(*summary.telemetry[name])] if name in summary.telemetry else [])


def draw_telemetry(campaign: Campaign, analysis: Analysis) -> Figure | None:
    """Draw what was measured over the steps: a panel each, or with many methods a row each and a column per family."""
    shown = [name for name in OVER_STEPS if any(name in s.telemetry for s in analysis.summaries)]
    if not shown:
        return None
    looks = looks_of(campaign)
    names = [s.method.name for s in analysis.summaries if s.telemetry]
    families = families_of(campaign, names)
    several = {family: mine for family, mine in families.items() if len(mine) > 1}
    by_family = len(names) > MOST and len(several) > 1
    if by_family:
        families = several
        rows, columns = len(shown), len(families)
        height = 0.6 + rows * max(1.7, 0.17 * max(map(len, families.values())))
        figure, grid = subplots(WIDTH, height, rows, columns, squeeze=False, sharex=True, sharey="row")
        panels = [(axes, name, family, mine) for row, name in zip(grid, shown, strict=True)
                  for axes, (family, mine) in zip(row, families.items(), strict=True)]  # fmt: skip
    else:
        columns = min(2, len(shown))
        rows = -(-len(shown) // columns)
        height = 0.5 + rows * max(2.2, 0.5 + 0.16 * min(len(names), MANY))
        figure, grid = subplots(WIDTH, height, rows, columns, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        panels = [(axes, name, "", names) for axes, name in zip(grid.flat, shown, strict=False)]
    ends, drawn = {}, {name for mine in families.values() for name in mine}
    for axes, name, family, mine in panels:
        strong = standing_out(campaign, analysis, mine)
        named = named_of(campaign, analysis, mine)
        for summary in analysis.summaries:
            if summary.method.name in mine and summary.method.name not in named:
                axes.plot(*_known(name, summary), **IN_BACKGROUND)
        summaries = [s for s in analysis.summaries if s.method.name in named]
        ends[axes] = _draw_quantity(axes, name, summaries, looks, strong, family)
        axes.set_title((family if axes in grid[0] else "") if by_family else fill(LABELS[name], 37))
        if by_family and axes in grid[:, 0]:
            axes.set_ylabel(fill(LABELS[name], 24), fontsize=8)
        if not by_family or axes in grid[-1]:
            axes.set_xlabel("step")
        _set_range(axes, name, [s for s in analysis.summaries if s.method.name in drawn])
    unnamed = sum(len(mine) - len(named_of(campaign, analysis, mine)) for mine in families.values())
    headline(figure, "Means over the comparison seeds, each method at its chosen rate"
             + (f"; in light gray {unnamed} more" if unnamed else ""))  # fmt: skip
    label_ends(figure, ends)
    return figure


def _draw_quantity(
    axes: Axes, name: str, summaries: Sequence[MethodSummary], looks: dict[str, Look], strong: set[str], family: str
) -> list[End]:
    """Draw one quantity of several methods; return the labels of their ends."""
    ends = []
    for summary in summaries:
        step, mean = _known(name, summary)
        look, stands = looks[summary.method.name], summary.method.name in strong
        if step.size:
            axes.plot(step, mean, marker="o" if len(step) < 20 else None, markersize=3, label=summary.method.name,
                      **look.of_line(stands))  # fmt: skip
            text = without(summary.method.name, family) if family else summary.method.name
            ends.append(End(x=float(step[-1]), y=float(mean[-1]), text=text, look=look, strong=stands))
    return ends


def _known(name: str, summary: MethodSummary) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values of a quantity where it was measured and can be drawn."""
    step, mean = summary.telemetry.get(name, (np.empty(0), np.empty(0)))
    known = np.isfinite(mean) & ((mean > 0) | (name in LINEAR))
    return step[known], mean[known]


def _set_range(axes: Axes, name: str, summaries: Sequence[MethodSummary]) -> None:
    """Choose range and ticks so that all methods are seen, but not a last step at a rate of almost zero."""
    values = np.concatenate([_known(name, summary)[1] for summary in summaries])
    if not values.size:
        return
    low, high = (float(np.quantile(values, share)) for share in (TAIL, 1 - TAIL))
    if name in LINEAR:
        if values.max() > 1.5 * high:
            axes.set_ylim(top=1.2 * high)
        return
    low, high = float(values.min()) if values.min() > 0.1 * low else low, float(values.max())
    axes.set_yscale("log")
    axes.set_ylim(low / 1.15, high * 1.15)
    name_ticks(axes, "y", log_ticks(low / 1.15, high * 1.15, most=5))


def draw_automata(described: dict[str, dict[str, Any]]) -> Figure | None:
    """Draw some trajectories of the first automaton, a row each, and the gzip ratios of all sampled rules."""
    if not described:
        return None
    automaton = next(iter(described.values()))
    shown = np.array(automaton["trajectories"])
    rows, columns = shown.shape[:2]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.72 * rows))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(2, 1))[0]
    grid = left.subplots(rows, columns, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        axes.imshow(shown[row, column], cmap="viridis", vmin=0, vmax=automaton["states"] - 1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title("" if row else f"{column + 1}", fontsize=8.5, loc="center")
        axes.set_ylabel("" if column else f"rule {row + 1}", fontsize=8.5)
    left.suptitle("Grids of one trajectory per rule, in order; a color per state", fontsize=9.5)
    axes = right.subplots()
    kept = (automaton["ratio_low"], automaton["ratio_high"])
    axes.axvspan(*kept, color=GREEN, alpha=0.15, linewidth=0, zorder=0)
    axes.hist(automaton["ratios"], bins=30, color=GRAY, zorder=2)
    most = max(automaton["ratios"])
    axes.set(xlim=(0, most * 1.1), xlabel="gzip ratio", ylabel="rules drawn")
    axes.text(0.5 * (kept[0] + min(kept[1], most * 1.1)), 0.97, "kept", transform=axes.get_xaxis_transform(),
              ha="center", va="top", color=mixed(GREEN, BLACK, 0.4))  # fmt: skip
    right.suptitle("How well gzip compresses them", fontsize=9.5)
    return figure
