"""Verify a folder of runs and name every damaged file: `python -m ngpt.doctor RUNS`. Nothing is repaired or written.

Reads every file of a run as the trainer does, checks its checksum, and compares the files with each other. Exit code 0:
no damage; 1: damage; 2: there is no such folder, or no run in it.
"""

if __name__ == "__main__":
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # also while modules are imported

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ngpt.command import Parser, nonempty_path
from ngpt.errors import InputError, end_with_the_reader, exit_code_of, require
from ngpt.files import holds_any, is_locked, leftovers, read_json
from ngpt.training.checkpoint import parse_checkpoint_state, read_tensors, tensors_sha256
from ngpt.training.record import CHECKPOINT, WEIGHTS, RunRecord, missing_rows, read_metrics, read_record


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in `folder`, `folder` itself included. Raises InputError if there is none."""
    require(folder.is_dir(), f"{folder}: no such folder")
    folder = folder.resolve() if folder.name in ("", "..") else folder  # a run's folder has its name
    places = (one for one in (folder, *sorted(folder.iterdir())) if one.is_dir())
    found = [one for one in places if holds_any(one, CHECKS)]
    require(bool(found), f"{folder}: no run in it")
    return found


def examine(folder: Path) -> tuple[str, list[str], list[str]]:
    """Return a run's status, what is damaged in its folder, and notes.

    The status may also be "in progress", "unknown", or "unreadable" without the right to read its files.
    """
    try:
        return _examine(folder)
    except PermissionError as error:
        return "unreadable", [], [f"{error.filename}: {error.strerror}: not examined"]


def _examine(folder: Path) -> tuple[str, list[str], list[str]]:
    if is_locked(folder.parent / ".locks" / folder.name):
        return "in progress", [], [f"{folder}: a process is working on it: not examined"]
    notes = []
    try:
        record = read_record(folder)
    except PermissionError:
        raise
    except (InputError, OSError) as error:
        status, damage = "unknown", [str(error)]
    else:
        status, damage = record.status, _damage(folder, record)
        if status in ("running", "killed"):
            status = "killed"  # a record says running until the run can write another one
            how = _how_to_go_on(folder, record, damage)
            notes.append(f"{folder}: killed after {record.steps} recorded steps: {how}")
        if status == "failed":
            notes.append(f"{folder}: failed: {record.message}")
    left = {path for name in CHECKS for path in leftovers(folder / name)}
    for path in sorted(folder.iterdir()):
        if path in left:
            notes.append(f"{path}: left by a killed process; the run removes it when it resumes")
        elif path.name not in CHECKS:
            notes.append(f"{path}: not a file of a run")
    return status, damage, notes


def _how_to_go_on(folder: Path, record: RunRecord, damage: list[str]) -> str:
    """Return what becomes of a run that was killed when it is started again."""
    if folder.name != record.run_id:
        return "it was set aside when the run was started anew"
    if any(what.startswith(str(folder / CHECKPOINT)) for what in damage):
        return "its checkpoint is damaged; without --resume it starts over, and this folder is set aside"
    return "--resume continues it" if (folder / CHECKPOINT).exists() else "it starts over, as it has no checkpoint"


def _damage(folder: Path, record: RunRecord) -> list[str]:
    """Return what is wrong with the files of a run whose record can be read."""
    found = []
    for name, check in CHECKS.items():
        path = folder / name
        if name in (CHECKPOINT, WEIGHTS) and not path.exists():
            continue
        try:
            problem = check(path, record)
        except PermissionError:
            raise
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem is not None:
            found.append(problem if problem.startswith(str(path)) else f"{path}: {problem}")
    return found


def _configured(record: RunRecord, section: str, name: str) -> Any:
    """Return a field of the run's configuration, which may be another version's; None if it has none there."""
    values = record.config.get(section)
    return values.get(name) if isinstance(values, dict) else None


def _check_record(path: Path, record: RunRecord) -> str | None:
    if record.run_id not in (path.parent.name, path.parent.name.rpartition(".")[0]):  # set aside: <id>.1
        return f"the record of {record.run_id}"
    optimizer = str(_configured(record, "optim", "optimizer")).rpartition(":")[2]  # of a class, its name
    if record.run_id != f"{optimizer}-{record.digest[:10]}-s{record.seed}" or record.config.get("seed") != record.seed:
        return "its id is not that of its configuration, digest and seed"
    if record.status == "done" and (record.final_val_loss is None or "final" not in record.weights_sha256):
        return "done without a final loss and the digest of final weights"
    return None


def _check_config(path: Path, record: RunRecord) -> str | None:
    return None if read_json(path) == record.config else "not the configuration of the record"


def _check_metrics(path: Path, record: RunRecord) -> str | None:
    if not path.exists():
        return "missing" if record.steps else None
    rows, ended = read_metrics(path.parent), record.status in ("done", "diverged")
    steps = [row.get("step", -1) for row in rows]
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
        return "its steps do not increase"
    if ended and (not rows or steps[-1] != record.steps or not path.read_bytes().endswith(b"\n")):
        return f"its lines end at step {steps[-1] if steps else 0} of {record.steps}"
    every = _configured(record, "train", "log_every")
    log_every = every if isinstance(every, int) and every > 0 else 1
    written = int(steps[-1]) if steps else 0
    known = max(written, record.steps if ended else record.steps - 1)  # it may stop before its last step is logged
    if missing := missing_rows(steps, known, log_every):
        return f"{missing} of its lines are missing"
    if record.status == "done" and rows[-1].get("val_loss") != record.final_val_loss:
        return "its last validation loss is not the record's"
    return None


def _check_checkpoint(path: Path, record: RunRecord) -> str | None:
    _, state = read_tensors(path)
    found = parse_checkpoint_state(state, path).record
    return None if found.run_id == record.run_id else f"the checkpoint of {found.run_id}"


def _check_weights(path: Path, record: RunRecord) -> str | None:
    tensors, state = read_tensors(path)
    if state.get("run_id") != record.run_id:
        return f"the weights of {state.get('run_id')}"
    same = tensors_sha256(tensors) == record.weights_sha256.get("final")
    return None if same else "not the final weights of the record"


CHECKS = {
    "record.json": _check_record, "config.json": _check_config, "metrics.jsonl": _check_metrics,
    CHECKPOINT: _check_checkpoint, WEIGHTS: _check_weights,
}  # fmt: skip
"""The files of a run, each with a function that returns what is wrong with it"""


def main(arguments: list[str]) -> int:
    """Examine every run; print one line for each finding and a summary."""
    parser = Parser(prog="python -m ngpt.doctor", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("runs", type=nonempty_path, help="a folder of runs, or one run's folder")
    folders = runs_in(parser.parse_args(arguments).runs)
    statuses: Counter[str] = Counter()
    damaged = 0
    for folder in folders:
        status, damage, notes = examine(folder)
        statuses[status] += 1
        damaged += len(damage)
        for line in (*(f"damaged: {what}" for what in damage), *(f"note: {what}" for what in notes)):
            print(line)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print(f"{len(folders)} runs: {counts}; {damaged} damaged files")
    return 1 if damaged else 0


if __name__ == "__main__":
    end_with_the_reader()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:]), only_prints=True))
