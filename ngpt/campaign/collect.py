"""Run folders -> `reports/data/<campaign>.json`: all that a report is made of, and nothing that is judged. No torch."""

from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.execute import finished_record
from ngpt.campaign.plan import Plan, PlannedRun
from ngpt.campaign.statistics import Array
from ngpt.data.cellular import Automaton, describe
from ngpt.flags import to_flags
from ngpt.identity import code_digest
from ngpt.training.record import RunRecord, read_metrics, read_record

CURVE_POINTS = 50
"""Points a training curve is averaged down to."""

PLAIN = {"step", "loss", "lr", "grad_norm", "seconds", "train_seconds", "val_loss", "val_bpb"}
"""What a row of metrics has besides telemetry."""


def losses_by_method(plan: Plan, runs: list[PlannedRun], out: Path, metric: str) -> dict[str, Array]:
    """Tables (seeds, rates) of `metric` by method; NaN where a run has no result."""
    values: dict[tuple[str, float, int], float] = {}
    for run in runs:
        record = finished_record(out, run.run_id)
        value = getattr(record, metric) if record is not None else None
        values[run.arm.method, run.arm.lr, run.seed] = np.nan if value is None else float(value)
    seeds = sorted({run.seed for run in runs})
    return {
        method.name: np.array([[values[method.name, lr, seed] for lr in method.lrs] for seed in seeds])
        for method in plan.campaign.methods
        if len(method.lrs) > 1
    }


def collect(
    plan: Plan, runs: list[PlannedRun], out: Path, *, command: str, jobs: int, failures: dict[str, str]
) -> dict[str, Any]:
    """Everything a report needs, as JSON. Runs without a finished record are listed as missing."""
    rows, records, ends = [], [], []
    for run in runs:
        record = finished_record(out, run.run_id)
        row: dict[str, Any] = {
            "stage": run.stage, "method": run.arm.method, "lr": run.arm.lr, "seed": run.seed, "run_id": run.run_id,
            "status": "missing" if record is None else record.status,
        }  # fmt: skip
        if record is not None:
            records.append(record)
            ends += [record] * (run.stage != "pretraining")
            row |= figures_of(record) | curves_of(read_metrics(out / run.run_id))
        elif (out / run.run_id / "record.json").exists():
            unfinished = read_record(out / run.run_id)
            row |= {"status": unfinished.status, "message": unfinished.message or "not finished"}
        if run.name in failures:
            row |= {"status": "failed", "message": failures[run.name]}
        rows.append(row)
    first = next(run.config for run in runs if run.stage != "pretraining")
    pretraining = [run.config for run in runs if run.stage == "pretraining"]
    automata = sorted({config.data.data for config in pretraining if config.data.tokenizer == "patches"})
    return {
        "campaign": plan.campaign.name,
        "preset": plan.preset,
        "data": first.data.data,
        "tokenizer": first.data.tokenizer,
        "data_digest": plan.data_digest,
        "code_digest": code_digest(),
        "definition": plan.campaign.digest,
        "command": command,
        "jobs": jobs,
        "planned_runs": len(runs) if any(run.stage == "comparison" for run in runs) else plan.count(),
        "tuning_seeds": plan.tuning_seeds,
        "comparison_seeds": plan.comparison_seeds,
        "model": {"layers": first.model.n_layer, "width": first.model.n_embd, "context": first.model.seq_len,
                  "arch": first.model.arch},
        "training": {"steps": first.train.steps, "batch": first.train.batch_size, "dtype": first.train.dtype,
                     "schedule": first.optim.schedule, "decay_share": first.optim.decay_share,
                     "aux_lr": first.optim.resolved_aux_lr, "grad_clip": first.optim.grad_clip,
                     "budget_seconds": first.train.time_budget_seconds, "clock": first.train.clock,
                     "projection_every": sorted({run.config.optim.lazy_proj_freq for run in runs})},
        "dates": sorted({record.finished[:10] for record in records if record.finished}),
        "commands": {f"{run.arm.method}|{run.arm.lr}|{run.seed}": " ".join(to_flags(run.config)) for run in runs},
        "environments": environments_of(records),
        "parameters": ends[0].parameters if ends else None,
        "eval_tokens": ends[0].eval_tokens if ends else None,
        "automata": {name: describe(Automaton.named(name)) for name in automata},
        "runs": rows,
    }  # fmt: skip


def figures_of(record: RunRecord) -> dict[str, Any]:
    """A finished run's numbers; those that were not measured are absent."""
    kept = ("steps", "final_val_loss", "final_val_bpb", "tokens_per_second", "train_seconds", "eval_seconds")
    figures = {name: value for name in kept if (value := getattr(record, name)) is not None}
    digests = {f"{when}_sha256": digest[:16] for when, digest in record.weights_sha256.items()}
    return figures | {"skipped_steps": record.skipped_steps} | digests


def curves_of(metrics: list[dict[str, float]]) -> dict[str, Any]:
    """Validation points as measured, the training loss averaged over equal stretches, telemetry as measured."""
    val = [row for row in metrics if "val_loss" in row]
    losses = np.array([(row["step"], row["loss"]) for row in metrics if "loss" in row])
    stretches = np.array_split(losses, min(CURVE_POINTS, len(losses))) if len(losses) else []
    telemetry = [row for row in metrics if set(row) - PLAIN]
    names = sorted({name for row in telemetry for name in row} - PLAIN)
    return {
        "val": {
            "step": [row["step"] for row in val],
            "loss": [row["val_loss"] for row in val],
            "seconds": [round(row["train_seconds"], 3) for row in val],
        },
        "train": {
            "step": [float(s[:, 0].mean()) for s in stretches],
            "loss": [round(float(s[:, 1].mean()), 5) for s in stretches],
        },
        "telemetry": {
            "step": [row["step"] for row in telemetry],
            **{name: [_rounded(row.get(name)) for row in telemetry] for name in names},
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def environments_of(records: list[RunRecord]) -> list[dict[str, Any]]:
    """The different machines, versions and commits behind the runs, each with its number of runs."""
    seen: dict[str, dict[str, Any]] = {}
    for record in records:
        content = {"device": record.device, "threads": record.threads, "commit": record.commit, **record.versions}
        seen.setdefault(str(content), {**content, "runs": 0})["runs"] += 1
    return list(seen.values())
