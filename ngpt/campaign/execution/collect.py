"""Run folders -> `reports/data/<experiment>.json`: everything a report is made of, before any judgment. No torch."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.definition.experiment import Experiment
from ngpt.campaign.definition.plan import FINISHED, FinishedRun, PlannedRun
from ngpt.campaign.execution.execute import record_of
from ngpt.campaign.execution.known import SCALE, carried_out_here
from ngpt.code import code_digest
from ngpt.config import ModelConfig, RunConfig
from ngpt.errors import InputError, require
from ngpt.files import read_json, write_json
from ngpt.flags import to_flags
from ngpt.presets import PRESETS
from ngpt.sources import name_of
from ngpt.training.record import RunRecord, read_metrics

CURVE_POINTS = 50
"""points to which a training curve is averaged down"""

MEASURED = ("steps", "final_val_loss", "final_val_bpb", "tokens_per_second", "train_seconds", "eval_seconds",
            "skipped_steps")  # fmt: skip
"""what a row has of the run's record; what was not measured is absent"""

PLAIN = {"step", "loss", "lr", "grad_norm", "seconds", "train_seconds", "val_loss", "val_bpb"}
"""what a row of metrics has besides telemetry"""

Metrics = list[dict[str, float]]


class OutdatedDataError(InputError):
    """Collected data do not belong to the experiment as its file defines it now."""


def data_path(reports: Path, name: str) -> Path:
    """Return the path of an experiment's collected data."""
    return reports / "data" / f"{name}.json"


def write_data(reports: Path, data: dict[str, Any]) -> None:
    """Write the collected data beside the report, atomically."""
    path = data_path(reports, data["campaign"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data, indent=None)


def read_data(experiment: Experiment, reports: Path) -> dict[str, Any]:
    """Read the collected data of `experiment`.

    Raises InputError if the file is missing, damaged or another experiment's, and OutdatedDataError if the experiment's
    file has changed since in anything that decides a result.
    """
    path = data_path(reports, experiment.name)
    data = read_json(path)
    complete = data.get("campaign") == experiment.name and bool(data.get("runs"))
    require(complete, f"{path}: not the data of {experiment.name}")
    if data["definition"] != experiment.digest:
        raise OutdatedDataError(f"{path}: collected before the experiment's file was changed")
    return data


def collect(
    experiment: Experiment, runs: Sequence[PlannedRun], out: Path, *, failures: dict[str, str],
    figures: Callable[[RunRecord, Metrics], dict[str, Any]], known: Mapping[str, FinishedRun], preset: str,
    text: str | None = None, **details: Any,
) -> dict[str, Any]:  # fmt: skip
    """Collect everything a report needs, as JSON. Runs without a finished record are listed as missing.

    failures: message by run name. figures: further numbers of a run, from its record and its metrics. known: runs that
    were carried out elsewhere, by run id. preset: the one whose model is the usual one. text: what the data are called;
    default: their file's name. details: further entries of the result.
    """
    rows: list[dict[str, Any]] = []
    scales: list[tuple[ModelConfig, Mapping[str, Any]]] = []
    dates: set[str] = set()
    environments: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for run in runs:
        row, found = row_of(run, out, figures, known)
        if found is not None:
            place = tuple(found.environment.items())
            environments[place] += 1
            row["environment"] = list(environments).index(place)
            dates |= {*found.dates}
            scales += [(run.config.model, found.scale)] * (run.stage != "pretraining")
        if run.name in failures:
            row |= {"status": "failed", "message": failures[run.name]}
        rows.append(row)
    configs = [run.config for run in runs if run.stage != "pretraining"]
    first = next((config for config in configs if _is_usual(config.model, preset)), configs[0])
    model = first.model
    return {
        "campaign": experiment.name, "definition": experiment.digest,
        "data": text or name_of(first.data.data), "tokenizer": first.data.tokenizer, "code_digest": code_digest(),
        "model": {"layers": model.n_layer, "width": model.n_embd, "heads": model.n_head, "context": model.seq_len,
                  "mlp_hidden": model.mlp_hidden,
                  "arch": " and ".join(sorted({config.model.arch for config in configs}))},
        "dates": sorted(dates),
        "commands": {run.key: shlex.join(_portable_flags(run.config)) for run in runs},
        "environments": [{**dict(content), "runs": number} for content, number in environments.items()],
        **next((scale for one, scale in scales if one == model), dict.fromkeys(SCALE)),
        "ranges": _ranges(configs, [scale for _, scale in scales]),
        "preset": preset, **details, "runs": rows,
    }  # fmt: skip


def _ranges(configs: Sequence[RunConfig], scales: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest value of each measure of size in which runs differ."""
    values = {
        "layers": [config.model.n_layer for config in configs],
        "width": [config.model.n_embd for config in configs],
        "context": [config.model.seq_len for config in configs],
        "batch": [config.train.batch_size for config in configs],
        "parameters": [scale["parameters"] for scale in scales if scale["parameters"] is not None],
    }
    return {name: (min(some), max(some)) for name, some in values.items() if len({*some}) > 1}


def _is_usual(model: ModelConfig, preset: str) -> bool:
    """Return whether a model has the preset's architecture, depth and width, where a campaign has several models."""
    names = ("arch", "n_layer", "n_embd")
    return all(getattr(model, name) == PRESETS[preset].get(name, getattr(ModelConfig, name)) for name in names)


def _portable_flags(config: RunConfig) -> list[str]:
    """Return the flags that give `config`, with names instead of paths on this machine."""
    data, train = dataclasses.replace(config.data, data=name_of(config.data.data)), config.train
    if train.init_from is not None:
        train = dataclasses.replace(train, init_from=Path(train.init_from).name)
    return to_flags(dataclasses.replace(config, data=data, train=train))


def row_of(
    run: PlannedRun, out: Path, figures: Callable[[RunRecord, Metrics], dict[str, Any]],
    known: Mapping[str, FinishedRun],
) -> tuple[dict[str, Any], FinishedRun | None]:  # fmt: skip
    """Return a run's row of the collected data, and what is known of it if it has ended by itself, here or elsewhere.

    figures, known: as in `collect`.
    """
    record = record_of(out, run.run_id)  # read once: it may change while another process carries the run out
    finished = record is not None and record.status in FINISHED
    if not finished and (there := known.get(run.run_id)) is not None:
        row = {name: value for name, value in there.row.items() if name != "environment"}  # a place in its own list
        return {**row, **run.labels}, there
    row = {**run.labels, "run_id": run.run_id, "status": "missing" if record is None else record.status}
    if record is None:
        return row, None
    if not finished:
        return {**row, "message": record.message or "not finished"}, None
    metrics = read_metrics(out / run.run_id)
    row |= {name: value for name in MEASURED if (value := getattr(record, name)) is not None}
    row |= {f"{when}_sha256": digest[:16] for when, digest in record.weights_sha256.items()}
    row |= curves_of(metrics) | figures(record, metrics)
    return row, carried_out_here(record, row)


def curves_of(metrics: Metrics) -> dict[str, Any]:
    """Return validation and telemetry as measured, and the training loss averaged over equal stretches."""
    val = [row for row in metrics if "val_loss" in row]
    losses = np.array([(row["step"], row["loss"]) for row in metrics if "loss" in row])
    stretches = np.array_split(losses, min(CURVE_POINTS, len(losses))) if len(losses) else []
    telemetry = [row for row in metrics if set(row) - PLAIN]
    names = sorted({name for row in telemetry for name in row} - PLAIN)
    return {
        "val": {"step": [row["step"] for row in val], "loss": [row["val_loss"] for row in val],
                "seconds": [round(row["train_seconds"], 3) for row in val]},
        "train": {"step": [float(s[:, 0].mean()) for s in stretches],
                  "loss": [round(float(s[:, 1].mean()), 5) for s in stretches]},
        "telemetry": {"step": [row["step"] for row in telemetry],
                      **{name: [float(f"{row[name]:.5g}") if row.get(name) is not None else None for row in telemetry]
                         for name in names}},
    }  # fmt: skip
