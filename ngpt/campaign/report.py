"""Analysis -> markdown. The words are in `templates/report.md.j2`; here are the numbers it prints. No torch."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ngpt.campaign.analysis import Analysis, Answer, MethodSummary, analyse, mean_interval
from ngpt.campaign.definition import Campaign
from ngpt.campaign.figures import draw_figures
from ngpt.errors import InputError
from ngpt.files import read_json, write_json, write_text

TELEMETRY_COLUMNS = {
    "rotation_hidden_rad": "rotation, hidden (rad/step)",
    "rotation_spread_hidden": "its spread over vectors",
    "rotation_embedding_rad": "rotation, embedding (rad/step)",
    "rotation_head_rad": "rotation, head (rad/step)",
    "radial_share_hidden": "radial share, hidden",
    "drift_hidden": "drift, hidden",
    "drift_embedding": "drift, embedding",
    "drift_head": "drift, head",
    "orthogonality_error": "orthogonality error",
    "gate_mean": "gate",
    "step_mean": "residual step",
}


def data_path(reports: Path, name: str) -> Path:
    """Where a campaign's collected data lie."""
    return reports / "data" / f"{name}.json"


def write_data(reports: Path, data: dict[str, Any]) -> None:
    """Keep the collected data beside the report, atomically."""
    path = data_path(reports, data["campaign"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data, indent=None)


class OutdatedDataError(InputError):
    """Collected data were made by other arms or another rule than the experiment's file has now."""


def read_data(campaign: Campaign, reports: Path) -> dict[str, Any]:
    """The collected data of `campaign`. Raises InputError if they are not, OutdatedDataError if they were once."""
    path = data_path(reports, campaign.name)
    data = read_json(path)
    if data.get("campaign") != campaign.name or not data.get("runs"):
        raise InputError(f"{path}: not the data of this campaign")
    if data["definition"] != campaign.digest:
        raise OutdatedDataError(
            f"{path}: made with other arms or another rule than experiments/{campaign.name}.py has now"
        )
    return data


def write_report(campaign: Campaign, reports: Path) -> tuple[Path, Analysis]:
    """Build report and figures from `reports/data/<campaign>.json`."""
    data = read_data(campaign, reports)
    analysis = analyse(campaign, data)
    files = draw_figures(campaign, analysis, data, reports / "figures")
    path = reports / campaign.report_name
    write_text(path, render(campaign, analysis, data, files))
    return path, analysis


def environment() -> Environment:
    """The templates, with a filter for each way to write a number."""
    made = Environment(
        loader=PackageLoader("ngpt.campaign"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    for filter_ in (number, signed, percent, mean_sd, nanmean, counted, tally, effect_of, interval):
        made.filters[filter_.__name__] = filter_
    return made


def render(campaign: Campaign, analysis: Analysis, data: dict[str, Any], files: dict[str, str]) -> str:
    """The report's markdown."""
    most_rates = max(len(method.lrs) for method in campaign.methods)
    shown = [r.text for r in campaign.references if r.data == data["data"] and data["preset"] in r.presets]
    return (
        environment()
        .get_template("report.md.j2")
        .render(
            campaign=campaign,
            analysis=analysis,
            data=data,
            files=files,
            references=shown,
            columns={k: v for k, v in TELEMETRY_COLUMNS.items() if any(k in s.telemetry for s in analysis.summaries)},
            troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
            command_of=_command_of(data),
            rates=most_rates,
            tuning_cells={s.method.name: _tuning_cells(s, most_rates) for s in analysis.summaries},
            budget=data["training"].get("budget_seconds"),
            speedups={s.method.name: share_text(s.speedup) for s in analysis.summaries},
            times={s.method.name: share_text(s.time_share) for s in analysis.summaries},
        )
    )


def _tuning_cells(summary: MethodSummary, columns: int) -> list[str]:
    """The tuning result of each rate of a method's grid; the chosen rate in bold, missing runs counted."""
    if len(summary.method.lrs) == 1 < columns:
        return [f"{summary.method.lrs[0]:g}, not tuned"] + ["–"] * (columns - 1)
    cells = []
    for index, lr in enumerate(summary.method.lrs):
        values = summary.tuning[:, index] if len(summary.tuning) else np.empty(0)
        cell = f"{lr:g}: {mean_sd(values)}"
        if not np.isfinite(values).all():
            cell += f" ({counted(values)} runs)"
        cells.append(f"**{cell}**" if lr == summary.chosen_lr else cell)
    return cells


def effect_of(answer: Answer) -> str:
    """`−0.0972 [−0.1190, −0.0754]`, in the unit of the rule, or a dash."""
    e = answer.verdict.effect
    return "–" if e is None else f"{signed(e.mean)} [{signed(e.t_low)}, {signed(e.t_high)}]"


def answer_of(answer: Answer) -> str:
    """The verdict in bold, and the effect."""
    return f"**{answer.verdict.label}**, {effect_of(answer)}"


def tally(answers: list[Answer]) -> str:
    """`Of 3 comparisons, 1 is supported (A against B), 2 are refuted (...)`: names where they are few."""
    parts = []
    for label in ("supported", "refuted", "inconclusive"):
        names = [answer.contrast.name for answer in answers if answer.verdict.label == label]
        named = f" ({'; '.join(names)})" if 0 < len(names) <= 3 else ""
        parts.append(f"{len(names)} {'is' if len(names) == 1 else 'are'} {label}{named}")
    return f"Of {len(answers)} comparisons, " + ", ".join(parts[:-1]) + f" and {parts[-1]}."


def _command_of(data: dict[str, Any]) -> Any:
    """The command of a method's run at a rate, on the first seed for which there is one, in a folder of its own."""

    def find(method: str, lr: float) -> str:
        key = next(k for k in data["commands"] if k.startswith(f"{method}|{lr}|"))
        return f"python train_architectural.py {data['commands'][key]} --threads 1 --out single".replace("  ", " ")

    return find


def number(value: float | None, digits: int = 4) -> str:
    """Fixed digits, or a dash for what was not measured."""
    return "–" if value is None or math.isnan(value) else "never" if math.isinf(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """With its sign, and a real minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(values: np.ndarray, kind: str = "difference") -> str:
    """Mean over seeds with its 95% t interval, of differences or of shares."""
    found = mean_interval(values)
    if found is None:
        return "–"
    mean, low, high = (percent(value) if kind == "share" else signed(value) for value in found)
    return f"{mean} [{low}, {high}]"


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def nanmean(values: np.ndarray) -> str:
    """Mean over the steps at which the quantity was measured."""
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.3g}" if finite.size else "–"


def counted(values: np.ndarray) -> str:
    """`4 of 5`, or `5` where all runs have a result."""
    finite = int(np.isfinite(values).sum())
    return f"{finite}" if finite == values.size else f"{finite} of {values.size}"


def mean_sd(values: np.ndarray) -> str:
    """`2.4870 ± 0.0210`: mean and standard deviation over seeds."""
    finite = values[np.isfinite(values)]
    if finite.size == 0 or finite.size < values.size:  # the mean of survivors is no result of the arm
        return "–"
    return f"{finite.mean():.4f}" + (f" ± {finite.std(ddof=1):.4f}" if finite.size > 1 else "")


def share_text(shares: np.ndarray) -> str:
    """Shares of the baseline's steps or time to its final loss, over seeds, as mean and interval."""
    share = shares[~np.isnan(shares)]
    if share.size == 0:
        return "–"
    never = int(np.isinf(share).sum())
    if never:
        return f"not reached on {never} of {share.size} seeds"
    interval = mean_interval(share)
    if interval is None:
        return percent(float(share[0]))
    return f"{percent(interval[0])} [{percent(interval[1])}, {percent(interval[2])}]"
