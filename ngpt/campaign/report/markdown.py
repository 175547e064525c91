"""Analysis -> markdown. The prose is in `templates/report.md.j2`; here are the numbers it prints. No torch."""

import math
import re
import shlex
from collections.abc import Sequence
from functools import cache, partial
from inspect import cleandoc
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ngpt.campaign.analysis.analyze import Analysis, MethodSummary, analyze, ends_with_decay, mean_after_first
from ngpt.campaign.analysis.statistics import paired_difference, sample_mean, seeds_to_halve
from ngpt.campaign.definition import Campaign
from ngpt.campaign.definition.experiment import Experiment
from ngpt.campaign.definition.plan import key_of
from ngpt.campaign.execution.collect import data_path, read_data
from ngpt.campaign.execution.options import PUBLISHED
from ngpt.campaign.report import words
from ngpt.campaign.report.controls import controls_of_others, effect_in
from ngpt.campaign.report.figures import draw_figures
from ngpt.campaign.report.forecast import forecasts_of
from ngpt.campaign.report.words import mean_sd, percent, signed
from ngpt.config import OptimConfig, RunConfig
from ngpt.files import read_json, write_text
from ngpt.registry import OPTIMIZERS, entry

TURNED = {
    "rotation_hidden_rad": "rotation, hidden", "rotation_spread_hidden": "its spread",
    "rotation_embedding_rad": "embedding", "rotation_head_rad": "head", "radial_share_hidden": "radial share, hidden",
}  # fmt: skip
LENGTHS = {
    "drift_hidden": "drift, hidden", "drift_embedding": "embedding", "drift_head": "head",
    "orthogonality_error": "orthogonality error", "gate_mean": "gate", "step_mean": "residual step",
}  # fmt: skip
"""the quantities of each table of telemetry, with their columns' names"""


def write_report(campaign: Campaign, reports: Path) -> tuple[Path, Analysis]:
    """Build report and figures from the collected data in `reports`; return the report's path and the analysis."""
    data = read_data(campaign, reports)
    analysis = analyze(campaign, data)
    summaries = analysis.summaries
    controls = controls_of_others(analysis, data, PUBLISHED)
    usual = campaign.configure(campaign.arms()[0], 0, {}, campaign.preset)
    path = write_markdown(
        "report.md.j2", reports / campaign.report_name, campaign=campaign, analysis=analysis, data=data,
        files=draw_figures(campaign, analysis, data, reports / "figures", controls), controls=controls,
        headline=words.headline(campaign, analysis, data), cost=cost_of(data),
        ways=ways_to_be_surer(analysis, data), forecasts=forecasts_of(data, analysis),
        published=campaign.published.get((data["data"], data["preset"])),
        telemetry=[{k: v for k, v in table.items() if any(k in s.telemetry for s in summaries)}
                   for table in (TURNED, LENGTHS)],
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        command_of=partial(command_of, data), rates=max(len(method.lrs) for method in campaign.methods),
        tuned=campaign.tuned,
        budget=data["training"].get("budget_seconds"),
        tuning_cells={s.method.name: tuning_cell(s) for s in summaries},
        aux_cells={s.method.name: grid_cell(campaign.aux_lrs, s.aux_tuning, s.chosen_aux_lr)
                   for s in summaries if not s.method.at_rates_of},
        equal_rates=at_equal_rates(campaign, analysis),
        own=bool(campaign.subject) or speaks_of(campaign, usual, data, complete=analysis.complete),
        worth={s.method.name: worth_of(campaign, analysis, s) for s in summaries},
        rivals={s.method.name: rival for s in summaries if (rival := campaign.rival_of(s.method)) != s.method.name},
        differences=differences(campaign, analysis, data), seeds=seeds_of(data), against=words.against,
        follow_up=campaign.follow_up and campaign.follow_up({s.method.name: s.comparison for s in summaries}),
        ends_with_decay=ends_with_decay(data["training"]), short_name=words.short_name,
    )  # fmt: skip
    return path, analysis


def write_markdown(template: str, path: Path, **content: Any) -> Path:
    """Fill in a template and write the result to `path`."""
    text = templates().get_template(template).render(**content)
    write_text(path, re.sub(r"\n{3,}", "\n\n", text))  # a part that is left out leaves its blank lines
    return path


@cache
def templates() -> Environment:
    """Return the templates, each of which is compiled once, with a filter for each way to write a number."""
    environment = Environment(
        loader=PackageLoader("ngpt.campaign.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    of_words = (words.number, signed, percent, mean_sd, words.effect_of, words.interval_text, words.word_of,
                words.agreement, words.prediction, words.p_text, effect_in)  # fmt: skip
    filters = (*of_words, over_steps, counted, interval, share_text, cleandoc, hours_unit, median)
    environment.filters |= {filter_.__name__: filter_ for filter_ in filters}
    return environment


def tuning_cell(summary: MethodSummary) -> str:
    """Return the tuning result at each hidden rate of a method, or why there is none."""
    if source := summary.method.at_rates_of:
        return f"at the rates of {source}"
    if len(summary.method.lrs) == 1:
        return f"{summary.method.lrs[0]:g}, not tuned"
    return grid_cell(summary.method.lrs, summary.tuning, summary.chosen_lr)


def grid_cell(grid: tuple[float, ...], tuning: np.ndarray, chosen: float | None) -> str:
    """Return `0.015: 2.196, **0.03: 2.105**`: the mean of the results (seeds, rates) at each rate of a grid.

    The chosen rate is bold. Where runs are missing, those that there are are counted.
    """
    parts = []
    for index, lr in enumerate(grid):
        values = tuning[:, index] if len(tuning) else np.empty(0)
        whole = values.size and np.isfinite(values).all()
        part = f"{lr:g}: {values.mean():.3f}" if whole else f"{lr:g}: – ({counted(values)} runs)"
        parts.append(f"**{part}**" if lr == chosen else part)
    return ", ".join(parts)


def at_equal_rates(campaign: Campaign, analysis: Analysis) -> dict[str, str]:
    """Return for each method its tuning results minus those of its baseline, at the rates that both have tried.

    Two cells: the mean at each rate, and the standard deviation over seeds, pooled over the rates. Without methods of
    another optimizer than their baseline's, whose rates mean something else.
    """
    of = {summary.method.name: summary for summary in analysis.summaries}
    found = {}
    for name, summary in of.items():
        base = of[campaign.baseline_of(summary.method)]
        kind, its_kind = (one.method.fields.get("optimizer") for one in (summary, base))
        comparable = kind == its_kind and summary.tuning.shape == base.tuning.shape and len(base.tuning) > 1
        if base is summary or not comparable:
            continue
        common = {lr: (mine, base.method.lrs.index(lr)) for mine, lr in enumerate(summary.method.lrs)
                  if lr in base.method.lrs}  # fmt: skip
        both = {lr: (summary.tuning[:, mine], base.tuning[:, its]) for lr, (mine, its) in common.items()}
        pairs = [(lr, paired_difference(*one)) for lr, one in both.items() if np.isfinite(one).all()]
        if len(pairs) > 1:
            sd = math.sqrt(sum(one.sd**2 for _, one in pairs) / len(pairs))
            found[name] = ", ".join(f"{lr:g}: {signed(one.mean)}" for lr, one in pairs) + f" | {sd:.4f}"
    return found


def cost_of(data: dict[str, Any]) -> str:
    """Return `315 runs, 0.5 core-hours`; hours, where runs had several threads or a GPU."""
    return f"{len(data['runs'])} runs, {hours_of(data['runs']):.1f} {hours_unit(data)}"


def hours_of(rows: Sequence[dict[str, Any]]) -> float:
    """Return the time of runs, training and validation."""
    return float(sum(row.get("train_seconds", 0.0) + row.get("eval_seconds", 0.0) for row in rows)) / 3600


def hours_unit(data: dict[str, Any]) -> str:
    """Return the unit in which the time of runs is counted."""
    one_core = all(e["threads"] == 1 and words.is_cpu(e["device"]) for e in data["environments"])
    return "core-hours" if one_core else "hours of training"


def ways_to_be_surer(analysis: Analysis, data: dict[str, Any]) -> list[str]:
    """Return what more certainty would cost: half as wide intervals, and enough seeds for what is undecided.

    Another number of comparison seeds takes other seeds, so all of them are new; tuning is not repeated.
    """
    seeds = seeds_of(data)
    if len(seeds) < 2:
        return []
    hours = hours_of([row for row in data["runs"] if row["seed"] in seeds]) / len(seeds)
    number = seeds_to_halve(len(seeds))
    ways = [f"intervals half as wide need {number} new seeds (`--comparison-seeds {number}`), "
            f"{number * hours:.2g} {hours_unit(data)}"]  # fmt: skip
    undecided = [answer for answer in analysis.answers if answer.verdict.seeds_needed and not answer.contrast.control]
    if undecided:
        first = min(undecided, key=lambda answer: answer.verdict.seeds_needed or 0)
        ways.append(f"the undecided answer that is easiest to settle, {first.contrast.name}, needs about "
                    f"{first.verdict.seeds_needed:,} for an even chance")  # fmt: skip
    return ways


def speaks_of(experiment: Experiment, usual: RunConfig, data: dict[str, Any], *, complete: bool) -> bool:
    """Return whether what an experiment's file says of its results is about these: all of its own runs.

    usual: configuration of a run of it without flags. A text with the digest of the published one counts as its own.
    """
    known = data_path(PUBLISHED, experiment.name)
    if known.exists() and read_json(known).get("data_digest") != data.get("data_digest"):
        return False
    budget, steps = usual.train.time_budget_seconds, usual.train.steps
    training = data.get("training", {"steps": steps, "budget_seconds": budget})
    stated = (experiment.preset, experiment.text or usual.data.data, usual.data.tokenizer, budget)
    own = stated == (data["preset"], data["data"], data["tokenizer"], training.get("budget_seconds"))
    return complete and own and (budget is not None or training["steps"] == steps)


def seeds_of(data: dict[str, Any]) -> list[int]:
    """Return the comparison seeds."""
    return sorted({row["seed"] for row in data["runs"] if row["stage"] == "comparison"})


def differences(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> dict[str, str]:
    """Return by method how its settings differ from those of its baseline, at the chosen rates of both."""
    compared = [summary for summary in analysis.summaries if summary.chosen_lr is not None]
    flags = {summary.method.name: settings_of(command_of(data, summary), data, first_run(data, summary).get("aux_lr"))
             for summary in compared}  # fmt: skip
    found = {}
    for summary in analysis.summaries:
        name, baseline = summary.method.name, campaign.baseline_of(summary.method)
        if name == baseline or name not in flags or baseline not in flags:
            continue
        mine, base = flags[name], flags[baseline]
        parts = [_code(flag, mine[flag]) + (f" instead of `{base[flag]}`" if flag in base else "")
                 for flag in mine if mine[flag] != base.get(flag)]  # fmt: skip
        parts += [f"without {_code(flag, base[flag])}" for flag in base if flag not in mine]
        found[name] = f"against {baseline}: {', '.join(parts) or 'no flag differs'}"
    return found


def worth_of(campaign: Campaign, analysis: Analysis, summary: MethodSummary) -> str:
    """Return the difference of a method to its baseline as a share of training; with a minus if it ends lower."""
    pair = summary.method.name, campaign.rival_of(summary.method)
    for answer in analysis.answers:
        effect, share = answer.verdict.effect, analysis.exchange.get(answer.contrast.name)
        if answer.contrast.pair == pair and effect is not None and share is not None:
            return ("−" if effect.mean < 0 else "+") + words.share_of_training(share)
    return "–"


def _code(flag: str, value: str) -> str:
    return f"`{flag} {value}`" if value else f"`{flag}`"


def settings_of(command: str, data: dict[str, Any], aux_lr: float | None = None) -> dict[str, str]:
    """Return the flags of a run's command by name, and those that preset and optimizer imply and may differ.

    aux_lr: the run's rate; None in data from before it was tuned, where all runs have one.
    """
    given = {"--optimizer": OptimConfig.optimizer} | _flags(command)
    by_preset = [one.defaults.get(data["preset"], {}) for one in OPTIMIZERS.values()]
    implied = {name: getattr(OptimConfig, name) for name in chain.from_iterable(by_preset)}
    implied |= {"aux_lr": data["training"].get("aux_lr") if aux_lr is None else aux_lr}
    implied |= entry(given["--optimizer"]).defaults.get(data["preset"], {})
    flags = {"--" + name.replace("_", "-"): f"{value:g}" for name, value in implied.items() if value is not None}
    return given | {flag: value for flag, value in flags.items() if flag not in given}


def _flags(command: str) -> dict[str, str]:
    """Return the values of a command's flags."""
    found: dict[str, list[str]] = {}
    for part in shlex.split(command):
        if part.startswith("--"):
            last = found.setdefault(part, [])
        elif found:
            last.append(part)
    return {flag: " ".join(values) for flag, values in found.items() if flag != "--seed"}


def command_of(data: dict[str, Any], summary: MethodSummary) -> str:
    """Return the command of a method's run at its chosen rates, on the first comparison seed."""
    flags = data["commands"][key_of(first_run(data, summary))]
    return f"python train_architectural.py {flags} --threads 1 --out single".replace("  ", " ")


def first_run(data: dict[str, Any], summary: MethodSummary) -> dict[str, Any]:
    """Return the row of a method's run on the first comparison seed."""
    mine = (row for row in data["runs"] if row["stage"] == "comparison" and row["method"] == summary.method.name)
    return next(mine)


def interval(values: np.ndarray, kind: str = "difference") -> str:
    """Return the mean over seeds with its 95% t interval, of differences or of shares."""
    found = sample_mean(values)
    if found is None:
        return "–"
    write = percent if kind == "share" else signed
    mean, low, high = (write(value) for value in (found.mean, found.t_low, found.t_high))
    return f"{mean} [{low}, {high}]"


def over_steps(measured: tuple[np.ndarray, np.ndarray]) -> str:
    """Return the mean of a quantity, given with its steps, over the steps at which it was measured."""
    mean = mean_after_first(*measured)
    return f"{mean:.3g}" if math.isfinite(mean) else "–"


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
