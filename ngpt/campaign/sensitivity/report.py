"""A study of sensitivity -> markdown and figures. The prose is in `templates/sensitivity.md.j2`. No torch."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis, analyze, ends_with_decay
from ngpt.campaign.analysis.verdict import Verdict
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.figures.looks import Look, looks_of_names
from ngpt.campaign.report.figures.marks import headline, plain, zero_and_band
from ngpt.campaign.report.markdown import command_of, speaks_of, write_markdown
from ngpt.campaign.report.style import BLACK, WIDTH, Axes, Figure, Line2D, save, style, subplots
from ngpt.campaign.report.words import effect_of, signed
from ngpt.campaign.sensitivity.analysis import TUNING_QUESTION, Compromise, Findings, Moved, Scan, find
from ngpt.campaign.sensitivity.definition import Knob, Sensitivity

CUT = 3.0
"""smallest effects at which figures end, so that one bad value does not hide the rest"""

COLUMNS = 4
"""panels in a row"""


def write_sensitivity_report(
    study: Sensitivity, campaign: Campaign, data: dict[str, Any], reports: Path
) -> tuple[Path, Analysis, Findings]:
    """Write report and figures; return the report's path, the campaign's analysis and the study's numbers."""
    analysis = analyze(campaign, data)
    findings = find(study, analysis, data)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    study_as_run = study.at(study.preset)
    files = {kind: f"{study.name}_{kind}.png" for kind in ("knobs", "surface")}
    with style():
        save(_draw_knobs(study, findings), reports / "figures" / files["knobs"])
        save(_draw_surfaces(study, findings), reports / "figures" / files["surface"])
    path = write_markdown(
        "sensitivity.md.j2", reports / campaign.report_name, study=study, campaign=campaign, analysis=analysis,
        own=speaks_of(study_as_run, study_as_run.configure(study_as_run.arms()[0], 0, {}, study.preset), data,
                      complete=analysis.complete),
        data=data, findings=findings, files=files, budget=None, tuning_question=TUNING_QUESTION,
        cut=CUT * study.rule.smallest_effect,
        scan_cells=[(scan, _cells(scan), _state(scan)) for scan in findings.scans],
        surface_cells=[(scan, _place(scan.best), _state(scan)) for scan in findings.surfaces],
        most_values=max(len(scan.grids[0]) for scan in findings.scans),
        cost=_cost, chosen=_chosen, judged_costs=sum(len(one.verdicts) for one in findings.compromises),
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        ends_with_decay=ends_with_decay(data["training"]), command_of=partial(command_of, data),
        at_defaults=[summary for summary in analysis.summaries if summary.method.name in campaign.baselines],
    )  # fmt: skip
    return path, analysis, findings


def _cells(scan: Scan) -> list[str]:
    """Return each value with its difference from the default and the interval, in bold if it is better by the rule."""
    places = {one.values: one for one in scan.moved}
    return [_place(places.get((value,))) or f"{value:.6g}: default" for value in scan.grids[0]]


def _place(one: Moved | None) -> str:
    """Return a place with its difference from the default and the interval, in bold if it is better by the rule."""
    if one is None:
        return ""
    missing = one.answer.result.n_missing
    found = f"diverged on {one.diverged} seed{'s' * (one.diverged > 1)}" if one.diverged else effect_of(one.answer)
    found += f" ({missing} seed{'s' * (missing > 1)} missing)" if missing and not one.diverged else ""
    cell = f"{', '.join(f'{value:.6g}' for value in one.values)}: {found}"
    return f"**{cell}**" if one.answer.verdict.word == "better" else cell


def _state(scan: Scan) -> str:
    """Return the state of the default; if it is off, with the best of the values that are better by the rule."""
    if scan.state != "off" or scan.best is None:
        return f"**{scan.state}**"
    values = ", ".join(f"{value:.6g}" for value in scan.best.values)
    return f"**off**: {values}" + (" or beyond" if scan.at_edge(scan.best) else "")


def _chosen(one: Compromise) -> str:
    """Return the compromise, and in parentheses those chosen without one seed if they are not all the same."""
    if one.value is None:
        return "–"
    others = sorted({*one.without_a_seed} - {one.value})
    kept = f"{one.value:.6g}"
    return f"{kept} ({', '.join(f'{value:.6g}' for value in others)})".replace("(-", "(−") if others else kept


def _cost(verdict: Verdict | None) -> str:
    """Return a cost with its interval; in bold where it is shown to matter."""
    e = None if verdict is None else verdict.effect
    if verdict is None or e is None:
        return "–"
    cell = "0" if e.mean == e.sd == 0 else f"{signed(e.mean)} [{signed(e.t_low)}, {signed(e.t_high)}]"
    return f"**{cell}**" if verdict.word == "worse" else cell


def _draw_knobs(study: Sensitivity, findings: Findings) -> Figure:
    """Draw every knob's difference from the default with its interval, one panel per knob, one line per method."""
    knobs, looks = study.all_knobs(), looks_of_names(study.methods)
    rows = math.ceil(len(knobs) / COLUMNS)
    figure, grid = subplots(WIDTH, 0.9 + 2.3 * rows, rows, COLUMNS, squeeze=False, sharey=True)
    for axes, knob in zip(grid.flat, knobs, strict=False):
        _draw_knob(axes, knob, [scan for scan in findings.scans if scan.knobs == (knob,)], study, looks)
    low, high = grid[0, 0].get_ylim()
    least, limit = 1.3 * study.rule.smallest_effect, CUT * study.rule.smallest_effect
    grid[0, 0].set_ylim(max(min(low, -least), -limit), min(max(high, least), limit))
    for axes in grid.flat[len(knobs) :]:
        axes.set_axis_off()
    handles = [Line2D([], [], marker="o", markersize=4, color=look.color, linestyle=look.line, label=method)
               for method, look in looks.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    figure.supylabel(f"difference from the default [{study.rule.unit}]", fontsize=9)
    headline(figure, "Each setting moved alone: paired difference from the default, mean and 95% interval over seeds; "
             f"gray: less than {study.rule.smallest_effect:g}, too small to matter; "
             "ticks in several lines: one for each method, in the order of the legend")  # fmt: skip
    return figure


def _draw_knob(axes: Axes, knob: Knob, scans: list[Scan], study: Sensitivity, looks: dict[str, Look]) -> None:
    """Draw one knob: its values at equal distances around the default, and a cross where there is no result."""
    zero_and_band(axes, study.rule.smallest_effect)
    ticks: dict[int, list[str]] = {}
    for number, scan in enumerate(scans):
        values, usual = scan.grids[0], scan.grids[0].index(scan.default[0])
        effects = {values.index(one.values[0]): one.answer.verdict.effect for one in scan.moved}
        places = [place for place in range(len(values)) if place == usual or effects[place] is not None]
        means = np.array([0.0 if (e := effects.get(place)) is None else e.mean for place in places])
        bars = np.array([0.0 if (e := effects.get(place)) is None else e.mean - e.t_low for place in places])
        aside, look = 0.07 * (number - (len(scans) - 1) / 2) - usual, looks[scan.method]
        axes.errorbar(np.array(places) + aside, means, bars, marker="o", markersize=4, capsize=2.5, linewidth=1.3,
                      elinewidth=1.0, color=look.color, linestyle=look.line, label=scan.method)  # fmt: skip
        for place, value in enumerate(values):
            ticks.setdefault(place - usual, []).append(plain(value))
            if place not in places:
                axes.plot(place + aside, 0.98, "x", color=look.color, clip_on=False,
                          transform=axes.get_xaxis_transform())  # fmt: skip
    labels = {place: texts if len({*texts}) > 1 else texts[:1] for place, texts in ticks.items()}
    axes.set_xticks(list(labels), ["\n".join(texts) for texts in labels.values()])
    axes.set_title(knob.name)


def _draw_surfaces(study: Sensitivity, findings: Findings) -> Figure:
    """Draw for every method the mean difference from its defaults over the grid of the surface's two knobs."""
    first, second = study.surface
    figure, grid = subplots(WIDTH, 3.0, 1, len(study.methods), squeeze=False)
    limit = CUT * study.rule.smallest_effect
    for axes, scan in zip(grid.flat, findings.surfaces, strict=True):
        (rows, columns), table = scan.grids, scan.differences
        axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            color = "#FFFFFF" if abs(value) > 0.7 * limit else BLACK
            usual = (rows[i], columns[j]) == scan.default
            text = "default" if usual else signed(value, 3) if np.isfinite(value) else "–"
            axes.text(j, i, text, ha="center", va="center", color=color)
        axes.set_xticks(range(len(columns)), [*map(plain, columns)])
        axes.set_yticks(range(len(rows)), [*map(plain, rows)])
        axes.set(title=scan.method, xlabel=second.name)
        axes.grid(visible=False)
    grid[0, 0].set_ylabel(first.name)
    headline(figure, f"Two settings moved together: mean paired difference from the default [{study.rule.unit}]; "
             "red: higher, blue: lower")  # fmt: skip
    return figure
