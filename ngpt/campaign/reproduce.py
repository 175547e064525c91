"""Running part of a published campaign again and comparing the weights to the bit. No torch."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngpt.campaign.definition import Arm
from ngpt.campaign.execute import execute, finished_record
from ngpt.campaign.plan import PlannedRun, digest_of
from ngpt.command import parse
from ngpt.errors import InputError
from ngpt.identity import run_id

Pair = tuple[PlannedRun, dict[str, Any]]
"""A run of today's code and the published row that it repeats."""


def first_rows(data: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each method's first comparison run in the collected data, and the runs from whose weights those start."""
    rows: dict[str, dict[str, Any]] = {}
    for row in data["runs"]:
        if row["stage"] == "comparison" and row["status"] == "done":
            rows.setdefault(row["method"], row)
    if not rows:
        raise InputError("no finished comparison run in the published data")
    needed = {name for row in rows.values() if (name := _source(_flags(data, row))) is not None}
    return list(rows.values()), [row for row in data["runs"] if row["run_id"] in needed]


def _flags(data: dict[str, Any], row: dict[str, Any]) -> list[str]:
    return shlex.split(data["commands"][f"{row['method']}|{row['lr']}|{row['seed']}"])


def _source(flags: list[str]) -> str | None:
    """Id of the run that a command line starts from."""
    return Path(flags[flags.index("--init-from") + 1]).name if "--init-from" in flags else None


def _run(data: dict[str, Any], row: dict[str, Any], sources: Mapping[str, Path]) -> PlannedRun:
    """The published run as a run of today's code, its source taken from `sources`."""
    flags = _flags(data, row)
    source = _source(flags)
    config = parse(flags if source is None else [*flags, "--init-from", str(sources[source])])[0]
    arm = Arm(method=row["method"], lr=row["lr"], fields={})
    identity = run_id(config, digest_of(config.data))
    return PlannedRun(stage=row["stage"], arm=arm, seed=row["seed"], config=config, run_id=identity)


def reproduce(data: dict[str, Any], data_digest: str, **settings: Any) -> bool:
    """Repeat one run of every method of a published campaign, say how each compares; whether all have the same bits.

    data: as `collect` gave it. data_digest: of the data as they are here. settings: as for `execute`, without `out`.
    Raises InputError if the data are not those of the published runs.
    """
    if data["training"].get("budget_seconds") is not None:
        raise InputError(
            "these runs end by the clock, never after the same number of steps: there are no bits to compare"
        )
    if data_digest != data["data_digest"]:
        raise InputError(
            f"the published runs had other data: digest {data['data_digest'][:16]}, here {data_digest[:16]}"
            + " (another version of Python has another standard library)" * (data["data"] == "stdlib")
        )
    for environment in data["environments"]:
        print("published on", ", ".join(f"{name} {value}" for name, value in environment.items() if name != "runs"))
    rows, needed = first_rows(data)
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        sources = [(_run(data, row, {}), row) for row in needed]
        same = _repeat(sources, Path(folder), **settings)
        paths = {row["run_id"]: Path(folder) / run.run_id for run, row in sources}
        same += _repeat([(_run(data, row, paths), row) for row in rows], Path(folder), **settings)
    print(f"{sum(same)} of {len(same)} runs have the published weights to the bit")
    return all(same)


def _repeat(pairs: list[Pair], folder: Path, **settings: Any) -> list[bool]:
    """Carry out the runs of `pairs` and say of each whether it has the published weights."""
    outcome = execute([run for run, _ in pairs], out=folder, **settings)
    if outcome.interrupted:
        raise KeyboardInterrupt
    same = []
    for run, row in pairs:
        record = finished_record(folder, run.run_id)
        if record is None or record.final_val_loss is None:
            why = outcome.failures.get(run.name) or (record.message if record else None)
            print(f"{run.name}: no result: {why}")
            same.append(False)
            continue
        same.append(record.weights_sha256["final"].startswith(row["final_sha256"]))
        difference = record.final_val_loss - row["final_val_loss"]
        print(f"{run.name}: {'the same bits' if same[-1] else f'other weights, loss {difference:+.2g}'}")
    return same
