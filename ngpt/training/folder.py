"""The folder of a run: its files' names, and taking hold of it, so that one run works in it at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngpt.errors import InputError
from ngpt.files import locked
from ngpt.ranks import Ranks
from ngpt.training.record import RunRecord, read_record

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


class RunBusyError(InputError):
    """Another process holds the run's lock."""


@contextmanager
def claimed(folder: Path, ranks: Ranks, *, resume: bool) -> Iterator[RunRecord | None]:
    """Inside, the run in `folder` is this process's and its ranks'; the record of one that is to be left as it is."""
    if not ranks.first:
        said = ranks.tell()
        if said not in ("begin", "ended"):
            raise InputError(said)
        yield read_record(folder) if said == "ended" else None
        return
    with locked(folder.parent / ".locks" / folder.name) as mine:
        try:
            if not mine:
                raise RunBusyError(f"{folder}: another process is working on this run")
            ended = _taken_hold_of(folder, resume=resume)
        except InputError as error:
            ranks.tell(str(error))
            raise
        ranks.tell("begin" if ended is None else "ended")
        yield ended


def _taken_hold_of(folder: Path, *, resume: bool) -> RunRecord | None:
    """Make the folder ready for the run to come; the record of one that is to be left as it is instead."""
    if (folder / "record.json").exists():
        earlier = read_record(folder)
        if resume and earlier.status in ("done", "diverged"):
            return earlier
        if not resume or (earlier.status == "failed" and not (folder / CHECKPOINT).exists()):
            _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # temporary files of a killed process: nobody else is here
        leftover.unlink()
    return None


def _set_aside(folder: Path) -> None:
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(kept)
    print(f"note: an earlier run of the same id is kept as {kept}", file=sys.stderr)
