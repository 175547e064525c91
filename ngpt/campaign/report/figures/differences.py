"""Paired differences of the validation loss to a baseline over the course of training, by step or by the clock."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.figures.looks import IN_BACKGROUND, Look, looks_of, standing_out, without
from ngpt.campaign.report.figures.marks import (
    End,
    half_width,
    headline,
    label_ends,
    range_without_far,
    zero_and_band,
)
from ngpt.campaign.report.style import BLACK, BLUE, INK, LINES, WIDTH, Axes, Figure, Line2D, mixed, subplots
from ngpt.campaign.report.words import signed

MOST = 6
"""lines in one panel; if there are more, each has a panel of its own"""

VERY_MANY = 12
"""panels; if there are more, those that would be empty are left out"""

COLUMNS = 4

TITLE_WIDTH = 24
"""characters of a panel's name before it goes on in a second line"""

Curve = dict[str, list[float]]
"""validations of one run: `step`, `loss` and, with a clock, `seconds`"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """The difference of one method to a baseline, over steps or seconds."""

    method: str
    place: NDArray[np.float64]
    """(places,)"""
    values: NDArray[np.float64]
    """(seeds, places)"""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over seeds, (places,)."""
        return self.values.mean(axis=0)

    @property
    def half(self) -> NDArray[np.float64]:
        """Half-width of its 95% interval, (places,)."""
        return half_width(self.values)


def courses(
    campaign: Campaign, curves: Mapping[str, Mapping[int, Curve]], axis: str
) -> dict[str, list[Course]]:  # fmt: skip
    """Return the course of each method that is compared with a baseline, by baseline.

    curves: by method and seed. Runs that were validated at other places than those of the baseline are interpolated.
    """
    found: dict[str, list[Course]] = {}
    for contrast in campaign.contrasts():
        if contrast.pair is None or contrast.pair[1] not in campaign.baselines:
            continue
        method, baseline = contrast.pair
        mine, base = curves.get(method, {}), curves.get(baseline, {})
        pairs = [(mine[seed], base[seed]) for seed in sorted(set(mine) & set(base))]
        runs = [curve for pair in pairs for curve in pair]
        if not runs:
            continue
        place = np.array(runs[0][axis], dtype=np.float64)
        if any(curve[axis] != runs[0][axis] for curve in runs):
            place = np.linspace(max(c[axis][0] for c in runs), min(c[axis][-1] for c in runs), 60)
        losses = [[np.interp(place, c[axis], c["loss"]) for c in pair] for pair in pairs]
        course = Course(method=method, place=place, values=np.array([one - other for one, other in losses]))
        if not any(course.method == known.method for known in found.get(baseline, ())):
            found.setdefault(baseline, []).append(course)
    return found


def curves_of(data: dict[str, Any], axis: str) -> dict[str, dict[int, Curve]]:
    """Return the validations of the comparison runs that came to their end, by method and seed."""
    found: dict[str, dict[int, Curve]] = {}
    for row in data["runs"]:
        if row["stage"] == "comparison" and row["status"] == "done" and row.get("val", {}).get(axis):
            found.setdefault(row["method"], {})[row["seed"]] = row["val"]
    return found


def draw_differences(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw each method's difference to its baseline against the step, where runs end after equal steps."""
    if data["training"].get("budget_seconds") is not None:
        return None
    found = courses(campaign, curves_of(data, "step"), "step")
    if not found:
        return None
    smallest = campaign.rule.smallest_effect if campaign.rule.metric == "final_val_loss" else None
    if max(map(len, found.values())) > MOST:
        return _small_multiples(campaign, analysis, found, smallest)
    looks = looks_of(campaign)
    families = {baseline: _family(campaign, baseline) for baseline in found}
    labels = [without(course.method, families[baseline]) for baseline, mine in found.items() for course in mine]
    stacked = len(found) > 1 and max(map(len, labels)) > 18
    rows, columns = (len(found), 1) if stacked else (1, len(found))
    figure, grid = subplots(WIDTH, 0.9 + (2.4 if stacked else 3.0) * rows, rows, columns, squeeze=False, sharex=True,
                            sharey=not stacked)  # fmt: skip
    ends = {}
    limits = _limits([course for mine in found.values() for course in mine], smallest)
    for axes, (baseline, mine) in zip(grid.flat, found.items(), strict=True):
        strong = standing_out(campaign, analysis, [course.method for course in mine])
        axes.set_ylim(*(_limits(mine, smallest) if stacked else limits))
        ends[axes] = _draw_panel(axes, mine, families[baseline], looks, strong, smallest)
        axes.set_title(f"against {baseline}")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes in grid[:, 0]:
        axes.set_ylabel("difference of validation\nloss [nats per token]")
    headline(figure, _says("95% interval", smallest))
    label_ends(figure, ends)
    return figure


def _says(band: str, smallest: float | None) -> str:
    gray = "" if smallest is None else f"; gray band: ±{smallest:g}, too small to matter"
    return f"Validation loss minus the baseline's, paired: mean over seeds and {band}{gray}"


def _family(campaign: Campaign, name: str) -> str:
    return next(method.family for method in campaign.methods if method.name == name)


def _limits(found: Sequence[Course], smallest: float | None, start: float = 1 / 3) -> tuple[float, float]:
    """Return the range of differences from a share of training on, of all methods but those that end far away."""
    least = 1.25 * smallest if smallest is not None else 0.0
    ends = [(float((c.mean - c.half)[-1]), float((c.mean + c.half)[-1])) for c in found]
    reach = range_without_far([low for low, _ in ends], [high for _, high in ends], least)
    near = [c for c, (low, high) in zip(found, ends, strict=True) if reach[0] <= low and high <= reach[1]]
    late = [c.place > start * c.place[-1] for c in near]
    low = min([-least, *(float((c.mean - c.half)[at].min()) for c, at in zip(near, late, strict=True))])
    high = max([least, *(float((c.mean + c.half)[at].max()) for c, at in zip(near, late, strict=True))])
    room = 0.04 * (high - low)
    return low - room, high + room


def _draw_panel(
    axes: Axes, found: Sequence[Course], family: str, looks: Mapping[str, Look], strong: set[str],
    smallest: float | None,
) -> list[End]:  # fmt: skip
    """Draw several methods into one panel; return the labels of their ends, without what the panel's title says.

    family: of the baseline in the title; empty without one.
    """
    zero_and_band(axes, smallest)
    ends = []
    for course in found:
        look, stands = looks[course.method], course.method in strong
        axes.plot(course.place, course.mean, **_marker(course), **look.of_line(stands), label=course.method)
        _draw_band(axes, course, look.color, 0.2 if stands else 0.08)
        text = f"{without(course.method, family)}  {_written(axes, course)}"
        ends.append(End(x=float(course.place[-1]), y=float(course.mean[-1]), text=text, look=look, strong=stands))
    axes.set_xlim(right=max(float(course.place[-1]) for course in found))
    return ends


def _marker(course: Course) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.2} if len(course.place) < 20 else {}


def _written(axes: Axes, course: Course) -> str:
    """Return the difference at the end, with an arrow if it lies outside the axes."""
    low, high = axes.get_ylim()
    end = float(course.mean[-1])
    return signed(end, 3) + (" ↑" if end > high else " ↓" if end < low else "")


def _small_multiples(
    campaign: Campaign, analysis: Analysis, found: Mapping[str, list[Course]], smallest: float | None
) -> Figure:
    """Draw a panel for each method with its interval, before the lines of all others with the same baseline.

    With very many methods, those that end off the scale have no panel, and are named with their number instead.
    """
    looks = looks_of(campaign)
    limits = _limits([course for mine in found.values() for course in mine], smallest)
    every = [(baseline, course) for baseline, mine in found.items() for course in mine]
    ends_off = [not limits[0] <= course.mean[-1] <= limits[1] for _, course in every]
    far = [course for (_, course), off in zip(every, ends_off, strict=True) if off and len(every) > VERY_MANY]
    panels = [(baseline, course) for baseline, course in every if course not in far]
    shown = {baseline: [course.method for of, course in panels if of == baseline] for baseline in found}
    figure, grid = _panels([names for names in shown.values() if names])
    best = {name for mine in found.values()
            for name in standing_out(campaign, analysis, [course.method for course in mine], few=1)}  # fmt: skip
    for axes, (baseline, course) in zip(grid, panels, strict=True):
        zero_and_band(axes, smallest)
        axes.set_ylim(*limits)
        others = [(c.place, c.mean) for c in found[baseline] if c is not course]
        if others:  # as one line with gaps, which makes the file much smaller
            pieces = [np.append(part, np.nan) for pair in others for part in pair]
            axes.plot(np.concatenate(pieces[::2]), np.concatenate(pieces[1::2]), **IN_BACKGROUND)
        look, strong = looks[course.method], course.method in best
        color = mixed(look.color, INK, 0.0 if strong else 0.3)
        _draw_band(axes, course, look.color)
        axes.plot(course.place, course.mean, color=color, linewidth=1.6, zorder=3, label=course.method,
                  **_marker(course))  # fmt: skip
        _name(axes, course.method, look, strong)
        axes.set_title(_written(axes, course), loc="right", fontsize=8.5)
        if len(found) > 1 and course.method == shown[baseline][0]:
            axes.annotate(f"against {baseline}", (0, 1), xycoords="axes fraction", xytext=(0, 32 if "\n" in
                          axes.get_title("left") else 20), textcoords="offset points", color=INK, fontstyle="italic",
                          fontsize=8.5, annotation_clip=False)  # fmt: skip
    figure.supxlabel("step", fontsize=9)
    off = ", ".join(f"{course.method} {signed(float(course.mean[-1]), 3)}" for course in far)
    more = f"; off the scale: {off}" if off else ""
    headline(figure, f"{_says('95% interval', smallest)}; light gray: the others; numbers: at the end{more}")
    return figure


def _panels(groups: Sequence[Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each of many methods, with common axes; each group begins a row."""
    rows = [group[start : start + COLUMNS] for group in groups for start in range(0, len(group), COLUMNS)]
    lines = sum(max(fill(name, TITLE_WIDTH).count("\n") for name in row) for row in rows) + len(groups) - 1
    figure, grid = subplots(WIDTH, 0.8 + 1.45 * len(rows) + 0.14 * lines, len(rows), COLUMNS, squeeze=False,
                            sharex=True, sharey=True)  # fmt: skip
    for (row, column), axes in np.ndenumerate(grid):
        if column >= len(rows[row]):
            axes.set_axis_off()
        elif row + 1 == len(rows) or column >= len(rows[row + 1]):
            axes.tick_params(labelbottom=True)
    figure.supylabel("difference of validation loss [nats per token]", fontsize=9)
    return figure, [axes for row, mine in zip(rows, grid, strict=True) for axes in mine[: len(row)]]


def _name(axes: Axes, name: str, look: Look, strong: bool) -> None:
    """Write the name of a panel's only method above it."""
    of_text = look.of_text(strong) if strong else {"color": BLACK}
    axes.set_title(fill(name, TITLE_WIDTH), fontsize=8.5, **of_text)


def _draw_band(axes: Axes, course: Course, color: str, alpha: float = 0.2) -> None:
    """Draw the 95% interval."""
    axes.fill_between(course.place, course.mean - course.half, course.mean + course.half, color=color, alpha=alpha,
                      linewidth=0, zorder=2)  # fmt: skip


def _of_pace(
    campaign: Campaign, analysis: Analysis, found: Mapping[str, list[Course]], smallest: float | None
) -> Figure:
    """Draw a panel for each method: at equal time with its interval, and at equal steps, both along the common part."""
    looks, names = looks_of(campaign), [course.method for course in found["seconds"]]
    at_steps = {course.method: course for course in found["step"]}
    strong = standing_out(campaign, analysis, names)
    figure, grid = _panels([names])
    limits = _limits([course for mine in found.values() for course in mine], smallest, start=0.6)
    for axes, course in zip(grid, found["seconds"], strict=True):
        look, stands, steps = looks[course.method], course.method in strong, at_steps[course.method]
        zero_and_band(axes, smallest)
        axes.set_ylim(*limits)
        axes.plot(steps.place / steps.place[-1], steps.mean, color=INK, linewidth=1.3, linestyle=LINES[1], zorder=3.5)
        shares = dataclasses.replace(course, place=course.place / course.place[-1])
        _draw_band(axes, shares, look.color)
        axes.plot(shares.place, shares.mean, color=look.color, linewidth=1.8, zorder=3, label=course.method)
        _name(axes, course.method, look, stands)
        axes.set_title(_written(axes, course), loc="right", fontsize=8.5)
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
        axes.set_xticklabels(["0", "half", "end"])
    handles = [Line2D([], [], color=BLUE, linewidth=1.8, label="at equal training time, with 95% interval"),
               Line2D([], [], color=INK, linewidth=1.3, linestyle=LINES[1], label="at equal steps")]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    says = "From left to right: training time, or steps, up to what both runs of a pair reached"
    headline(figure, f"{_says('95% interval', smallest)}. {says}")
    return figure


def draw_pace(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw each method's difference to its baseline at equal steps and at equal time, where runs end by the clock."""
    curves = {name: {seed: curve for seed, curve in mine.items() if len(curve["seconds"]) > 1}
              for name, mine in curves_of(data, "seconds").items()}  # fmt: skip
    if data["training"].get("budget_seconds") is None:
        return None
    looks = looks_of(campaign)
    axes_of = {"step": "at equal steps", "seconds": "at equal training time"}
    found = {axis: [course for mine in courses(campaign, curves, axis).values() for course in mine] for axis in axes_of}
    if not any(found.values()):
        return None
    smallest = campaign.rule.smallest_effect if campaign.rule.metric == "final_val_loss" else None
    if len(found["seconds"]) > MOST:
        return _of_pace(campaign, analysis, found, smallest)
    strong = standing_out(campaign, analysis, [course.method for course in found["step"]])
    figure, grid = subplots(WIDTH, max(3.4, 1.2 + 0.2 * len(found["step"])), 1, 2, sharey=True)
    ends = {}
    grid[0].set_ylim(*_limits([course for mine in found.values() for course in mine], smallest))
    for axes, (axis, title) in zip(grid, axes_of.items(), strict=True):
        ends[axes] = _draw_panel(axes, found[axis], "", looks, strong, smallest)
        axes.set(title=title, xlabel="step" if axis == "step" else "training time [s]")
    grid[0].set_ylabel("difference of validation\nloss [nats per token]")
    headline(figure, _says("95% interval", smallest))
    label_ends(figure, ends)
    return figure


