"""A table of the runs in a folder: `python -m ngpt.runs RUNS`. Nothing is written. No torch."""

if __name__ == "__main__":
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # also while modules are imported

import csv
import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ngpt.command import Parser, nonempty_path
from ngpt.cost import duration
from ngpt.errors import InputError, end_with_the_reader, exit_code_of, require
from ngpt.files import holds_any, is_forbidden, is_locked
from ngpt.training.record import CHECKPOINT, FILES, RunRecord, latest_metrics, read_record


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of the table; what is not known is None."""

    id: str
    """name of its folder"""
    name: str | None = None
    """its name for people, if it has one"""
    state: str
    """running, interrupted (--resume continues it), killed (before its first checkpoint), done, diverged, failed,
    damaged, or unreadable (without the right to read it)"""
    steps: int | None = None
    planned_steps: int | None = None
    budget_seconds: float | None = None
    """planned training time of a run that ends by the clock"""
    final_loss: float | None = None
    """validation loss at the end, in nats per token"""
    last_loss: float | None = None
    """training loss of the last logged step"""
    lr: float | None = None
    tokens_per_second: float | None = None
    age: float | None = None
    """seconds since the run ended or, if it has not, since it last wrote"""
    message: str | None = None
    """why it failed, diverged or cannot be read"""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def row_of(folder: Path) -> Row:
    """Return the row of the run in `folder`, an absolute path."""
    lock = folder.parent / ".locks" / folder.name
    try:
        busy = is_locked(lock)
        record, last = read_record(folder), latest_metrics(folder) or {}
        busy = busy or is_locked(lock)  # it may have started just before its record was read
        age = _age(folder, record)
    except (InputError, OSError) as error:
        state = "unreadable" if is_forbidden(error) else "damaged"
        return Row(id=folder.name, state=state, message=" ".join(str(error).split()))
    batch, context = _number(record, "train", "batch_size"), _number(record, "model", "seq_len")
    budget, planned = _number(record, "train", "time_budget_seconds"), _number(record, "train", "steps")
    speed, steps = record.tokens_per_second, max(record.steps, int(last.get("step", 0)))
    if speed is None and batch and context and last.get("train_seconds"):  # the first step is not timed
        speed = (steps - 1) * batch * context / last["train_seconds"]
    return Row(
        id=folder.name, name=None if record.name == record.run_id else record.name, state=_state(folder, record, busy),
        steps=steps, planned_steps=None if budget or planned is None else int(planned), budget_seconds=budget,
        final_loss=record.final_val_loss, last_loss=last.get("loss"), lr=_number(record, "optim", "lr"),
        tokens_per_second=speed, age=age, message=record.message,
    )  # fmt: skip


def _state(folder: Path, record: RunRecord, busy: bool) -> str:
    if record.status in ("done", "diverged"):
        return record.status
    if busy:
        return "running"
    if record.status == "failed":
        return "failed"
    return "interrupted" if (folder / CHECKPOINT).exists() else "killed"


def _number(record: RunRecord, section: str, name: str) -> float | None:
    """Return a number of the run's configuration, which may be another version's; None if it has none there."""
    values = record.config.get(section)
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int | float) else None


def _age(folder: Path, record: RunRecord) -> float:
    if record.finished is not None:
        try:
            ended = datetime.fromisoformat(record.finished).timestamp()
        except ValueError as error:
            raise InputError(f"{folder / 'record.json'}: not a date: {record.finished!r:.60}") from error
    else:
        files = (folder / "record.json", folder / "metrics.jsonl")
        ended = max(file.stat().st_mtime for file in files if file.exists())
    return max(0.0, time.time() - ended)


def rows_in(folder: Path, sort: str = "final_loss") -> list[Row]:
    """Return a row for each run in `folder`, `folder` itself included, sorted by a column and then by id.

    Rows without a value in that column come last. Raises InputError if there is no run.
    """
    require(folder.is_dir(), f"{folder}: no such folder")
    place = folder.resolve()
    folders = (one for one in (place, *place.iterdir()) if one.is_dir())
    rows = [row_of(one) for one in folders if holds_any(one, FILES)]
    require(bool(rows), f"{folder}: no run in it")

    def key(row: Row) -> tuple[bool, Any, str]:
        value = getattr(row, sort)
        return value is None, 0 if value is None else value, row.id

    return sorted(rows, key=key)


def table(rows: Iterable[Row]) -> str:
    """Return rows as lines of text, without the columns that are empty in all of them."""
    lines = [cells_of(row) for row in rows]
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    grid = [names, *([" ".join(line[name].split()) for name in names] for line in lines)]
    widths = [max(len(line[column]) for line in grid) for column in range(len(names))]
    texts = ("id", "name", "state", "message")
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in texts else cell.rjust(width)
            for name, cell, width in zip(names, line, widths, strict=True)
        ).rstrip()
        for line in grid
    )


def cells_of(row: Row) -> dict[str, str]:
    """Return the cells of a row by column, for people."""
    planned = f"{row.budget_seconds:g} s" if row.budget_seconds else f"{row.planned_steps or '?'}"
    return {
        "id": row.id, "name": row.name or "", "state": row.state,
        "steps": "" if row.steps is None else f"{row.steps}/{planned}",
        "final_loss": "" if row.final_loss is None else f"{row.final_loss:.4f}",
        "last_loss": "" if row.last_loss is None else f"{row.last_loss:.4f}",
        "lr": "" if row.lr is None else f"{row.lr:g}",
        "tokens_per_second": "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        "age": "" if row.age is None else duration(row.age), "message": row.message or "",
    }  # fmt: skip


def build_parser() -> Parser:
    """Return the parser of `python -m ngpt.runs`."""
    parser = Parser(prog="python -m ngpt.runs", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=nonempty_path, help="a folder of runs, or one run's folder")
    text = f"one of {', '.join(COLUMNS)} (%(default)s)"
    parser.add_argument("--sort", choices=COLUMNS, default="final_loss", metavar="COLUMN", help=text)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="as comma-separated values, unrounded, times in seconds")
    shape.add_argument("--json", action="store_true", help="as a JSON list, unrounded, times in seconds")
    return parser


def main(arguments: list[str]) -> int:
    """Print the runs of a folder."""
    given = build_parser().parse_args(arguments)
    rows = rows_in(given.folder, given.sort)
    if given.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    elif given.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    end_with_the_reader()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:]), only_prints=True))
