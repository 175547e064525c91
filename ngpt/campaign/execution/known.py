"""Finished runs, carried out here or known from data that were collected elsewhere. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ngpt.campaign.definition.plan import FINISHED, AnyPlan, FinishedRun, PlannedRun
from ngpt.campaign.execution.execute import finished_record
from ngpt.code import code_digest
from ngpt.errors import require
from ngpt.files import read_json
from ngpt.training.record import RunRecord

SCALE = ("parameters", "eval_tokens")
"""Entries of collected data about the model that a campaign has, or has usually if it has several"""

ENTRIES = {"runs", "environments", "dates", "jobs", "data_digest", "code_digest", *SCALE}
ROW = {"run_id", "stage", "status"}
"""Least entries of collected data and of their rows"""


def known_runs(paths: Sequence[Path], data_digest: str) -> dict[str, FinishedRun]:
    """Return the finished runs in files of collected data, by run id.

    A run id stands for configuration, data and code, so that a run is only taken where all three are the same. Runs
    that others start from are left out, since their weights are not there. Raises InputError for a file that is not
    collected data, that has other data or code than this campaign, or that does not say where each run was carried out.
    """
    found = {}
    for path in paths:
        data = read_json(path)
        sound = ENTRIES <= data.keys() and all(ROW <= row.keys() for row in data["runs"])
        require(sound, f"{path}: not the collected data of a campaign")
        for name, mine in (("data", data_digest), ("code", code_digest())):
            same = data[f"{name}_digest"] == mine
            require(same, f"{path}: runs with other {name}, digest {data[f'{name}_digest'][:16]} and not {mine[:16]}")
        alone = len(data["environments"]) == 1
        for row in data["runs"]:
            if row["status"] in FINISHED and row["stage"] != "pretraining":
                said = alone or "environment" in row
                require(said, f"{path}: collected before rows said where their runs were carried out")
                there = {"jobs": data["jobs"], **data["environments"][row.get("environment", 0)]}
                place = {name: value for name, value in there.items() if name != "runs"}
                scale = {name: data[name] for name in SCALE}
                found[row["run_id"]] = FinishedRun(row=row, environment=place, scale=scale, dates=data["dates"])
    return found


def carried_out_here(record: RunRecord, row: Mapping[str, Any]) -> FinishedRun:
    """Return a finished run of this machine, from its record and its row of the collected data."""
    environment = {"device": record.device, "threads": record.threads, "commit": record.commit, **record.versions}
    dates = [record.finished[:10]] if record.finished else []
    return FinishedRun(row=row, environment=environment, scale={n: getattr(record, n) for n in SCALE}, dates=dates)


def is_finished(plan: AnyPlan, run: PlannedRun) -> bool:
    """Return whether a run has ended by itself, here or elsewhere."""
    return run.run_id in plan.known or finished_record(plan.out, run.run_id) is not None


def result_of(plan: AnyPlan, run: PlannedRun, metric: str) -> float | None:
    """Return a number of a finished run, such as `final_val_loss`; None without one."""
    record = finished_record(plan.out, run.run_id)
    if record is not None:
        return getattr(record, metric)
    known = plan.known.get(run.run_id)
    return None if known is None else known.row.get(metric)
