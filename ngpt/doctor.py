"""Verify a folder of runs and name every damaged file: `python -m ngpt.doctor RUNS`. Nothing is repaired or written.

Every file of a run is read as the program reads it, its checksum included, and the files are compared with each other.
Exit code 0: nothing is damaged; 1: something is; 2: there is no such folder, or no run in it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ngpt.errors import InputError, exit_code_of
from ngpt.files import is_locked, read_json
from ngpt.training.checkpoint import progressed_of, read_tensors, tensors_sha256
from ngpt.training.folder import CHECKPOINT, WEIGHTS
from ngpt.training.record import RunRecord, read_metrics, read_record

FILES = {"config.json", "metrics.jsonl", "record.json", CHECKPOINT, WEIGHTS}
"""Of a run's folder."""


@dataclass(frozen=True)
class Finding:
    """Something about one file or folder."""

    path: Path
    what: str
    damaged: bool

    def __str__(self) -> str:
        text = self.what if self.what.startswith(str(self.path)) else f"{self.path}: {self.what}"
        return f"{'damaged' if self.damaged else 'note'}: {text}"


def runs_in(folder: Path) -> list[Path]:
    """The run folders in `folder`, or `folder` itself if it is one. Raises InputError if there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = [one for one in (folder, *sorted(folder.iterdir())) if one.is_dir() and is_run(one)]
    if not found:
        raise InputError(f"{folder}: no run in it")
    return found


def is_run(folder: Path) -> bool:
    """Whether a folder holds a file that only a run leaves."""
    return any((folder / name).exists() for name in FILES)


def examine(folder: Path) -> tuple[str, list[Finding]]:
    """A run's status, "in progress" or "unknown" included, and what is to be said of its files."""
    if is_locked(folder.parent / ".locks" / folder.name):
        return "in progress", [Finding(folder, "a process is working on it: not examined", damaged=False)]
    try:
        record = read_record(folder)
    except InputError as error:
        return "unknown", [Finding(folder / "record.json", str(error), damaged=True), *_strangers(folder)]
    return record.status, [*_findings(folder, record), *_strangers(folder)]


def _findings(folder: Path, record: RunRecord) -> Iterator[Finding]:
    """Of the files of a run whose record can be read."""
    for name, check in (
        ("record.json", _check_record),
        ("config.json", _check_config),
        ("metrics.jsonl", _check_metrics),
        (CHECKPOINT, _check_checkpoint),
        (WEIGHTS, _check_weights),
    ):
        try:
            problem = check(folder, record)
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem is not None:
            yield Finding(folder / name, problem, damaged=True)
    if record.status in ("running", "killed"):
        how = "--resume continues it" if (folder / CHECKPOINT).exists() else "it begins again from its start"
        yield Finding(folder, f"killed after {record.steps} recorded steps: {how}", damaged=False)
    if record.status == "failed":
        yield Finding(folder, f"failed: {record.message}", damaged=False)


def _strangers(folder: Path) -> Iterator[Finding]:
    """What a run does not leave, or only when it is killed."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            yield Finding(path, "left by a killed process; the run removes it when it goes on", damaged=False)
        elif path.name not in FILES:
            yield Finding(path, "not a file of a run", damaged=False)


def _check_record(folder: Path, record: RunRecord) -> str | None:
    if folder.name != record.run_id and folder.name.rpartition(".")[0] != record.run_id:  # set aside: <id>.1
        return f"the record of {record.run_id}"
    optimizer = record.config.get("optim", {}).get("optimizer")
    if record.run_id != f"{optimizer}-{record.digest[:10]}-s{record.seed}" or record.config.get("seed") != record.seed:
        return "its id is not that of its configuration, digest and seed"
    if record.status == "done" and (record.final_val_loss is None or "final" not in record.weights_sha256):
        return "done without a final loss and the digest of final weights"
    return None


def _check_config(folder: Path, record: RunRecord) -> str | None:
    same = read_json(folder / "config.json") == record.config
    return None if same else "not the configuration of the record"


def _check_metrics(folder: Path, record: RunRecord) -> str | None:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return "missing" if record.steps else None
    rows, ended = read_metrics(folder), record.status in ("done", "diverged")
    steps = [row.get("step", -1) for row in rows]
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
        return "its steps do not rise"
    if ended and (not rows or steps[-1] != record.steps or not path.read_bytes().endswith(b"\n")):
        return f"its lines end at step {steps[-1] if steps else 0} of {record.steps}"
    if record.status == "done" and rows[-1].get("val_loss") != record.final_val_loss:
        return "its last validation loss is not the record's"
    return None


def _check_checkpoint(folder: Path, record: RunRecord) -> str | None:
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    _, state = read_tensors(path)
    found = progressed_of(state, path).record
    return None if found.run_id == record.run_id else f"the checkpoint of {found.run_id}"


def _check_weights(folder: Path, record: RunRecord) -> str | None:
    path = folder / WEIGHTS
    if not path.exists():
        return None
    tensors, state = read_tensors(path)
    if state.get("run_id") != record.run_id:
        return f"the weights of {state.get('run_id')}"
    same = tensors_sha256(tensors) == record.weights_sha256.get("final")
    return None if same else "not the final weights of the record"


def main(arguments: list[str]) -> int:
    """Examine every run, print a line a finding and, last, a summary."""
    parser = argparse.ArgumentParser(prog="python -m ngpt.doctor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of runs, or one run's folder")
    folders = runs_in(parser.parse_args(arguments).runs)
    statuses: Counter[str] = Counter()
    damaged = 0
    for folder in folders:
        status, findings = examine(folder)
        statuses[status] += 1
        for finding in findings:
            damaged += finding.damaged
            print(finding)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print(f"{len(folders)} runs: {counts}; {damaged} damaged files")
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
