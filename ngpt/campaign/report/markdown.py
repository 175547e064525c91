"""Analysis -> markdown. The prose is in `templates/report.md.j2`; here are the numbers it prints. No torch."""

from functools import partial
from inspect import cleandoc
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ngpt.campaign.analysis.analyze import Analysis, MethodSummary, analyze, ends_with_decay
from ngpt.campaign.analysis.statistics import sample_mean
from ngpt.campaign.definition import Campaign
from ngpt.campaign.execution.collect import read_data
from ngpt.campaign.report import words
from ngpt.campaign.report.figures import draw_figures
from ngpt.campaign.report.words import mean_sd, percent, signed
from ngpt.files import write_text

TELEMETRY_COLUMNS = {
    "rotation_hidden_rad": "rotation, hidden (rad/step)", "rotation_spread_hidden": "its spread over vectors",
    "rotation_embedding_rad": "rotation, embedding (rad/step)", "rotation_head_rad": "rotation, head (rad/step)",
    "radial_share_hidden": "radial share, hidden",
    "drift_hidden": "drift, hidden", "drift_embedding": "drift, embedding", "drift_head": "drift, head",
    "orthogonality_error": "orthogonality error", "gate_mean": "gate", "step_mean": "residual step",
}  # fmt: skip


def write_report(campaign: Campaign, reports: Path) -> tuple[Path, Analysis]:
    """Build report and figures from the collected data in `reports`; return the report's path and the analysis."""
    data = read_data(campaign, reports)
    analysis = analyze(campaign, data)
    summaries = analysis.summaries
    most_rates = max(len(method.lrs) for method in campaign.methods)
    path = write_markdown(
        "report.md.j2", reports / campaign.report_name, campaign=campaign, analysis=analysis, data=data,
        files=draw_figures(campaign, analysis, data, reports / "figures"),
        published=campaign.published.get((data["data"], data["preset"])),
        columns={k: v for k, v in TELEMETRY_COLUMNS.items() if any(k in s.telemetry for s in summaries)},
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        command_of=partial(command_of, data), rates=most_rates, budget=data["training"].get("budget_seconds"),
        tuning_cells={s.method.name: _tuning_cells(s, most_rates) for s in summaries},
        aux_cells={
            s.method.name: _cells(campaign.aux_lrs, s.aux_tuning, s.chosen_aux_lr)
            for s in summaries if not s.method.at_rates_of
        },
        follow_up=campaign.follow_up and campaign.follow_up({s.method.name: s.comparison for s in summaries}),
        ends_with_decay=ends_with_decay(data["training"]), costs_known=any("aux_lr" in row for row in data["runs"]),
    )  # fmt: skip
    return path, analysis


def write_markdown(template: str, path: Path, **content: Any) -> Path:
    """Fill in a template, with a filter for each way to write a number, and write the result to `path`."""
    environment = Environment(
        loader=PackageLoader("ngpt.campaign.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    of_words = (words.number, signed, percent, mean_sd, words.effect_of, words.word_of, words.agreement, words.tally)
    filters = (*of_words, nanmean, counted, interval, share_text, cleandoc)
    environment.filters |= {filter_.__name__: filter_ for filter_ in filters}
    write_text(path, environment.get_template(template).render(**content))
    return path


def _tuning_cells(summary: MethodSummary, columns: int) -> list[str]:
    """Return the tuning result of each rate of a method's grid; the chosen rate in bold, missing runs counted."""
    if source := summary.method.at_rates_of:
        return [f"rates of {source}"] + ["–"] * (columns - 1)
    if len(summary.method.lrs) == 1 < columns:
        return [f"{summary.method.lrs[0]:g}, not tuned"] + ["–"] * (columns - 1)
    return _cells(summary.method.lrs, summary.tuning, summary.chosen_lr)


def _cells(grid: tuple[float, ...], tuning: np.ndarray, chosen: float | None) -> list[str]:
    """Return the tuning result (seeds, rates) of each rate of a grid."""
    cells = []
    for index, lr in enumerate(grid):
        values = tuning[:, index] if len(tuning) else np.empty(0)
        runs = "" if np.isfinite(values).all() else f" ({counted(values)} runs)"
        cell = f"{lr:g}: {mean_sd(values)}{runs}"
        cells.append(f"**{cell}**" if lr == chosen else cell)
    return cells


def command_of(data: dict[str, Any], summary: MethodSummary) -> str:
    """Return the command of a method's run at its chosen rates, on the first seed that has one."""
    rates = [rate for rate in (summary.chosen_lr, summary.chosen_aux_lr) if rate is not None]
    start = "|".join(map(str, [summary.method.name, *rates])) + "|"
    flags = next(flags for key, flags in data["commands"].items() if key.startswith(start))
    return f"python train_architectural.py {flags} --threads 1 --out single".replace("  ", " ")


def interval(values: np.ndarray, kind: str = "difference") -> str:
    """Return the mean over seeds with its 95% t interval, of differences or of shares."""
    found = sample_mean(values)
    if found is None:
        return "–"
    write = percent if kind == "share" else signed
    mean, low, high = (write(value) for value in (found.mean, found.t_low, found.t_high))
    return f"{mean} [{low}, {high}]"


def nanmean(values: np.ndarray) -> str:
    """Return the mean over the steps at which the quantity was measured."""
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.3g}" if finite.size else "–"


def counted(values: np.ndarray) -> str:
    """Return `4 of 5`, or `5` if all runs have a result."""
    finite = int(np.isfinite(values).sum())
    return f"{finite}" if finite == values.size else f"{finite} of {values.size}"


def share_text(shares: np.ndarray) -> str:
    """Return shares of the baseline's steps or time to its final loss, over seeds, as mean and interval."""
    share = shares[~np.isnan(shares)]
    never = int(np.isinf(share).sum())
    if never:
        return f"not reached on {never} of {share.size} seeds"
    return percent(float(share[0])) if share.size == 1 else interval(share, "share")
