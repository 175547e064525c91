"""Running part of a published campaign again and comparing the weights to the bit. No torch."""

import shlex
import tempfile
from pathlib import Path
from typing import Any

from ngpt.campaign.definition import Arm
from ngpt.campaign.execute import execute, finished_record
from ngpt.campaign.plan import PlannedRun
from ngpt.command import parse
from ngpt.errors import InputError
from ngpt.identity import run_id


def runs_to_repeat(data: dict[str, Any]) -> list[tuple[PlannedRun, dict[str, Any]]]:
    """Each method's first comparison run in the collected data, as a run of today's code, and its published row."""
    pairs = {}
    for row in data["runs"]:
        if row["stage"] == "comparison" and row["status"] == "done" and row["method"] not in pairs:
            flags = data["commands"][f"{row['method']}|{row['lr']}|{row['seed']}"]
            config = parse(shlex.split(flags))[0]
            arm = Arm(method=row["method"], lr=row["lr"], fields={})
            identity = run_id(config, data["data_digest"])
            run = PlannedRun(stage="comparison", arm=arm, seed=row["seed"], config=config, run_id=identity)
            pairs[row["method"]] = run, row
    if not pairs:
        raise InputError("no finished comparison run in the published data")
    return list(pairs.values())


def reproduce(data: dict[str, Any], data_digest: str, **settings: Any) -> bool:
    """Repeat one run of every method of a published campaign, say how each compares; whether all have the same bits.

    data: as `collect` gave it. data_digest: of the data as they are here. settings: as for `execute`, without `out`.
    Raises InputError if the data are not those of the published runs.
    """
    if data_digest != data["data_digest"]:
        raise InputError(
            f"the published runs had other data: digest {data['data_digest'][:16]}, here {data_digest[:16]}"
            + " (another version of Python has another standard library)" * (data["data"] == "stdlib")
        )
    for environment in data["environments"]:
        print("published on", ", ".join(f"{name} {value}" for name, value in environment.items() if name != "runs"))
    pairs = runs_to_repeat(data)
    same = []
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        outcome = execute([run for run, _ in pairs], out=Path(folder), **settings)
        if outcome.interrupted:
            raise KeyboardInterrupt
        for run, row in pairs:
            record = finished_record(Path(folder), run.run_id)
            if record is None or record.final_val_loss is None:
                why = outcome.failures.get(run.name) or (record.message if record else None)
                print(f"{run.name}: no result: {why}")
                same.append(False)
                continue
            same.append(record.weights_sha256["final"].startswith(row["final_sha256"]))
            difference = record.final_val_loss - row["final_val_loss"]
            print(f"{run.name}: {'the same bits' if same[-1] else f'other weights, loss {difference:+.2g}'}")
    print(f"{sum(same)} of {len(same)} runs have the published weights to the bit")
    return all(same)
