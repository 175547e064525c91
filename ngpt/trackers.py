"""A run in a tracker: configuration, the rows of `metrics.jsonl`, and a summary. No torch of its own.

`ngpt.tracking` starts it as a process for a run with `--track`. It reads the run's folder, and ends once its standard
input is closed.
"""

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ngpt.config import SECTIONS
from ngpt.errors import first_line
from ngpt.files import content_of
from ngpt.registry import load
from ngpt.tracking import FAILED, FINISH_SECONDS, complain
from ngpt.training.record import RunRecord, read_record

POLL_SECONDS = 0.5
PROJECT = "ngpt"

CONFIG = "run_id digest seed name device threads ranks commit data_name data_digest".split()
"""Fields of the record that belong to the configuration"""
SUMMARY = """status steps final_val_loss final_val_bpb eval_tokens tokens_per_second train_seconds eval_seconds
    skipped_steps fell_back_at_step parameters peak_memory_bytes engine finished message""".split()


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker needs to know it at its start."""

    id: str
    name: str
    group: str | None
    config: dict[str, Any]
    """without sections: the names of its fields are unique"""
    logged: int
    """step up to which an earlier process of the run has logged; 0: the run starts"""
    folder: Path
    warn: Callable[[str], None]
    """prints a warning, the first one only"""


class Tracker(Protocol):
    """A tracker of one run, made from a TrackedRun; whatever it raises ends the tracking."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the numbers of one row of metrics."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Log what the run came to, and send all that has not been sent."""


# --- the trackers ----------------------------------------------------------------------------------------------------


class Trackio:
    """Trackio, on this machine unless its environment variables name a space or a server."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        # where others raise, trackio warns and goes on
        warnings.showwarning = lambda message, *_, **__: run.warn(str(message))
        self.run = trackio.init(
            project=PROJECT, name=run.id, group=run.group, config=run.config,
            resume="allow" if run.logged else "never", embed=False, auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        self.step = run.logged

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the numbers of one row."""
        self.run.log(values, step=step)
        self.step = step

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the numbers of the summary, for which trackio has no place of its own, at the last step."""
        self.run.log({f"summary/{name}": value for name, value in _numbers(summary).items()}, step=self.step)
        self.run.finish()


class Wandb:
    """Weights & Biases."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=run.id, name=run.name, group=run.group,
            config=run.config, resume="allow" if run.logged else None, settings=wandb.Settings(console="off"),
        )  # fmt: skip

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the numbers of one row."""
        self.run.log(values, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        """Set the summary, and finish the run as failed unless it is done."""
        self.run.summary.update(summary)
        self.run.finish(exit_code=0 if summary["status"] == "done" else 1)


class TensorBoard:
    """Event files in `tensorboard/` beside the run's folder, by group and run."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = run.folder.parent / "tensorboard" / (run.group or "") / run.id
        self.writer, self.step = SummaryWriter(str(place), purge_step=run.logged + 1), run.logged
        self._text("config", run.config)

    def _text(self, tag: str, content: dict[str, Any]) -> None:
        lines = json.dumps(content, indent=1, default=str).splitlines()
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in lines), self.step)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the numbers of one row."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.step = step

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary as text, and its numbers at the last step."""
        self._text("summary", summary)
        for name, value in _numbers(summary).items():
            self.writer.add_scalar(f"summary/{name}", value, self.step)
        self.writer.close()


def _numbers(summary: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if not isinstance(value, str)}


# --- in the tracker's process ----------------------------------------------------------------------------------------


def follow(
    entry_point: str, folder: Path, logged: int, group: str | None, warn: Callable[[str], None], ended: threading.Event
) -> None:
    """Track the run in `folder` until `ended` is set and all of its rows are logged."""
    record = read_record(folder)
    config = {name: value for section in SECTIONS for name, value in record.config[section].items()}
    config |= _fields(record, CONFIG) | {"preset": record.config["preset"]}
    run = TrackedRun(
        id=record.run_id, name=record.name, group=group, config=config, logged=logged, folder=folder, warn=warn
    )
    path = folder / "metrics.jsonl"
    with path.open("rb") as file:
        tracker: Tracker = load(entry_point)(run)
        rest = b""
        while True:
            last = ended.wait(POLL_SECONDS)  # before reading, so that nothing is written after the last reading
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                row = content_of(line.decode(), str(path))
                step = int(row.pop("step"))
                if step > logged:
                    tracker.log(step, row)
            if last:
                break
    tracker.finish(_fields(read_record(folder), SUMMARY))


def _fields(record: RunRecord, names: list[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(record, name)) is not None}


def main(arguments: list[str]) -> int:
    """Follow a run: the tracker's name and entry point, the run's folder, the step logged before, perhaps a group."""
    kind, entry_point, folder, logged, *group = arguments
    ended = threading.Event()

    def await_end() -> None:
        os.read(0, 1)  # nothing: until the trainer has closed it, or is dead
        ended.set()
        time.sleep(FINISH_SECONDS + 5)  # the trainer, if alive, has ended this process before
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=await_end, daemon=True).start()
    warned: list[str] = []
    stream = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for all that trackers, their threads and their processes say

    def warn(why: str) -> None:
        if not warned:
            complain(kind, why, stream)
        warned.append(why)

    try:
        follow(entry_point, Path(folder), int(logged), group[0] if group else None, warn, ended)
    except Exception as error:  # whatever a tracker raises
        warn(f"{type(error).__name__}: {first_line(error)}")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
