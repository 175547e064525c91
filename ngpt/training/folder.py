"""Claiming the folder of a run, so that one process works in it at a time."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngpt.errors import InputError, require
from ngpt.files import leftovers, locked
from ngpt.ranks import Ranks
from ngpt.training.record import CHECKPOINT, FILES, RunRecord, read_record

CLAIMED, ENDED = "claimed", "ended"
"""Texts that rank 0 broadcasts if there is no error"""


class RunBusyError(InputError):
    """Another process holds the run's lock."""


@contextmanager
def claim_run_folder(folder: Path, ranks: Ranks, *, resume: bool) -> Iterator[RunRecord | None]:
    """Lock `folder` for this process and its ranks, and make it ready for a run.

    Yields None or, with `resume`, the record of a run that ended by itself and is to be left as it is. Raises
    RunBusyError, on all ranks an InputError, if another process works on the run.
    """
    if not ranks.is_first:
        outcome = ranks.broadcast_text()
        require(outcome in (CLAIMED, ENDED), outcome)
        yield read_record(folder) if outcome == ENDED else None
        return
    with locked(folder.parent / ".locks" / folder.name) as acquired:
        try:
            if not acquired:
                raise RunBusyError(f"{folder}: another process is working on this run")
            ended = _prepare(folder, resume=resume)
        except InputError as error:
            ranks.broadcast_text(str(error))
            raise
        ranks.broadcast_text(CLAIMED if ended is None else ENDED)
        yield ended


def _prepare(folder: Path, *, resume: bool) -> RunRecord | None:
    """Make the folder ready for a run; return the record instead if there is one that is to be left as it is."""
    if (folder / "record.json").exists():
        earlier = read_record(folder)
        own = earlier.run_id == folder.name
        require(own, f"{folder / 'record.json'}: the record of another run, {earlier.run_id}; move it away")
        if resume and earlier.status in ("done", "diverged"):
            return earlier
        if not resume or (earlier.status == "failed" and not (folder / CHECKPOINT).exists()):
            _set_aside(folder)
    elif any((folder / name).exists() for name in FILES[2:]):  # without its record there is no telling what ran
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        for leftover in leftovers(folder / name):  # the lock excludes a living process
            leftover.unlink()
    return None


def _set_aside(folder: Path) -> None:
    places = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    kept = folder.rename(next(place for place in places if not place.exists()))
    print(f"note: an earlier run of the same id is kept as {kept}", file=sys.stderr)
