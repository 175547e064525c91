"""Repeat part of a published campaign and compare the weights to the bit. No torch."""

import shlex
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ngpt.campaign.definition.plan import PlannedRun, key_of
from ngpt.campaign.execution.execute import execute, finished_record
from ngpt.command import parse
from ngpt.errors import require
from ngpt.foreign import is_class


def _flags(data: dict[str, Any], row: dict[str, Any]) -> tuple[list[str], str | None]:
    """Return the command line of a published run, and the id of the run whose weights it starts from."""
    flags = shlex.split(data["commands"][key_of(row)])
    return flags, Path(flags[flags.index("--init-from") + 1]).name if "--init-from" in flags else None


def _run(
    data: dict[str, Any], row: dict[str, Any], sources: Mapping[str, Path], classes: Collection[str], place: str | None
) -> PlannedRun:  # fmt: skip
    """Return the published run as a run of the present code, with its initial weights taken from `sources`.

    place: where its data are on this machine, if they are files.
    """
    flags, source = _flags(data, row)
    here = [] if place is None or row["stage"] == "pretraining" else ["--data", place]
    config = parse([*flags, *here, *([] if source is None else ["--init-from", str(sources[source])])])[0]
    known = not is_class(config.optim.optimizer) or config.optim.optimizer in classes
    require(known, f"the published runs have --optimizer {config.optim.optimizer}, which this campaign does not")
    return PlannedRun.of(row["stage"], row["method"], row["seed"], config, aux_lr=row.get("aux_lr"))


def reproduce(
    data: dict[str, Any], data_digest: str, *, classes: Collection[str] = (), place: str | None = None, **settings: Any
) -> bool:  # fmt: skip
    """Repeat one run of every method of a published campaign, print how each compares; return whether all bits agree.

    data: the collected data. data_digest: of the corpus on this machine.
    classes: those that --optimizer may name, as a file of data must not choose what code runs. place: --data of this
    machine, if given. settings: as for `execute`, without `out`.
    Raises InputError if the corpus is not that of the published runs, or if runs end by the clock.
    """
    by_clock = data["training"].get("budget_seconds") is not None
    require(not by_clock, "these runs end by the clock, never after the same number of steps: bits cannot agree")
    other = f"the published runs had other data: digest {data['data_digest'][:16]}, here {data_digest[:16]}"
    why = " (another version of Python has another standard library)" if data["data"] == "stdlib" else ""
    require(data_digest == data["data_digest"], other + why)
    for environment in data["environments"]:
        print("published on", ", ".join(f"{name} {value}" for name, value in environment.items() if name != "runs"))
    first: dict[str, dict[str, Any]] = {}
    for row in data["runs"]:
        if row["stage"] == "comparison" and row["status"] == "done":
            first.setdefault(row["method"], row)
    require(bool(first), "no finished comparison run in the published data")
    needed = {_flags(data, row)[1] for row in first.values()}
    same: list[bool] = []
    paths: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="reproduce-") as name:
        for rows in ([row for row in data["runs"] if row["run_id"] in needed], first.values()):
            pairs = [(_run(data, row, paths, classes, place), row) for row in rows]
            same += _repeat(pairs, Path(name), **settings)
            paths = {row["run_id"]: Path(name) / run.run_id for run, row in pairs}
    print(f"{sum(same)} of {len(same)} runs have the published weights to the bit")
    return all(same)


def _repeat(pairs: list[tuple[PlannedRun, dict[str, Any]]], folder: Path, **settings: Any) -> list[bool]:
    """Carry out the runs of `pairs` and return for each whether it has the published weights."""
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
