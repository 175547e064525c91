"""Carry out planned runs: each in its own process, several at a time, resumable, with progress bars.

Ctrl-C reaches only the runner, which asks every run to stop after its current step and to leave a checkpoint.
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ngpt.campaign.definition.plan import FINISHED, PlannedRun, change_since_planned
from ngpt.campaign.execution.launchers import LocalJob, LocalLauncher, RayJob, RayLauncher
from ngpt.config import Runtime, Track
from ngpt.errors import require
from ngpt.training.record import RunRecord, read_record
from ngpt.training.worker import PROGRESS_SECONDS, Message

BUSY_SECONDS = 2.0


def record_of(out: Path, run_id: str) -> RunRecord | None:
    """Return the record of a run that has begun; None if it has not."""
    folder = out / run_id
    if not (folder / "record.json").exists():
        return None
    record = read_record(folder)
    own = record.run_id == run_id
    require(own, f"{folder / 'record.json'}: the record of another run, {record.run_id}; move it away")
    return record


def finished_record(out: Path, run_id: str) -> RunRecord | None:
    """Return the record of a run that ended by itself, done or diverged; None if it has not."""
    record = record_of(out, run_id)
    return record if record is not None and record.status in FINISHED else None


def failures_of(runs: Sequence[PlannedRun], out: Path) -> dict[str, str]:
    """Return by run name why runs have failed, as their records say."""
    records = {run.name: record_of(out, run.run_id) for run in runs}
    return {name: one.message or one.status for name, one in records.items() if one and one.status == "failed"}


@dataclass
class Outcome:
    """The outcome of the requested runs."""

    failures: dict[str, str] = field(default_factory=dict)
    """message by run name, for runs that ended without a result"""
    interrupted: bool = False


def execute(
    runs: list[PlannedRun], *, out: Path, jobs: int, device: str, threads: int,
    launcher: LocalLauncher | RayLauncher | None = None, track: Track | None = None, track_group: str | None = None,
) -> Outcome:  # fmt: skip
    """Carry out the runs that are not finished yet, `jobs` at a time, with `launcher` (default: on this machine).

    A run that another runner is working on is left to that runner and checked again later. A failed run does not stop
    the others.
    """
    settings = {"out": out, "device": device, "threads": threads, "resume": True, "progress": False}
    settings |= {"track": track, "track_group": track_group}
    return _Execution(runs, jobs, settings, launcher).carry_out()


def _bar(**settings: Any) -> "tqdm[Any]":
    return tqdm(**settings, disable=not sys.stderr.isatty(), file=sys.stderr)


@dataclass
class _Worker:
    run: PlannedRun
    slot: int
    bar: "tqdm[Any]"
    ended: Message = ("error", "")
    """what the run said at its end, if it said anything: an error, or that another runner is working on it"""


class _Execution:
    def __init__(
        self, runs: list[PlannedRun], jobs: int, settings: dict[str, Any], launcher: LocalLauncher | RayLauncher | None
    ) -> None:
        self.jobs, self.settings, self.outcome = jobs, settings, Outcome()
        self.pending = deque(run for run in runs if finished_record(settings["out"], run.run_id) is None)
        one_thread = settings["device"] == "cpu" and settings["threads"] == 1
        self.launcher = launcher or LocalLauncher(run.config for run in self.pending if one_thread)
        self.total = _bar(total=len(runs), initial=len(runs) - len(self.pending), unit="run", desc="campaign")
        self.workers: dict[LocalJob | RayJob, _Worker] = {}
        self.not_before: dict[str, float] = {}  # when to check a busy run again, by its id

    def carry_out(self) -> Outcome:
        with self.total:
            try:
                while self.pending or self.workers:
                    self._start()
                    self._listen()
            except KeyboardInterrupt:
                tqdm.write("stopping: each run finishes its current step and leaves a checkpoint", file=sys.stderr)
                self._stop()
                self.outcome.interrupted = True
        return self.outcome

    def _start(self) -> None:
        for slot in sorted(set(range(self.jobs)) - {worker.slot for worker in self.workers.values()}):
            now = time.monotonic()
            ready = next((run for run in self.pending if self.not_before.get(run.run_id, 0.0) <= now), None)
            if ready is None:
                return
            if (change := change_since_planned(ready.config.data)) is not None:
                for run in [run for run in self.pending if run.config.data == ready.config.data]:
                    self.pending.remove(run)
                    self._fail(run, change)
                continue
            self.pending.remove(ready)
            runtime = Runtime(name=ready.name, keep_weights=ready.stage == "pretraining", **self.settings)
            job = self.launcher.start(ready.config, runtime, runtime.out / ready.run_id)
            steps = ready.config.train.steps if ready.config.train.time_budget_seconds is None else None
            bar = _bar(total=steps, desc=f"  {ready.name}", unit="step", position=slot + 1, leave=False)
            self.workers[job] = _Worker(ready, slot, bar)

    def _listen(self) -> None:
        if not self.workers:  # other runners are working on all that is left
            time.sleep(PROGRESS_SECONDS)
            return
        for job in self.launcher.wait_for_messages(list(self.workers)):
            worker, message = self.workers[job], job.listen()
            if message is None:
                self._end(job)
            elif message[0] == "step":
                step, loss = message[1]
                worker.bar.update(step - worker.bar.n)
                worker.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            else:
                worker.ended = message

    def _end(self, job: LocalJob | RayJob) -> None:
        worker = self.workers.pop(job)
        worker.bar.close()
        run = worker.run
        if worker.ended[0] == "busy":
            self.not_before[run.run_id] = time.monotonic() + BUSY_SECONDS
            self.pending.append(run)
            return
        record = finished_record(self.settings["out"], run.run_id)
        if record is None:
            change = change_since_planned(run.config.data)  # then the run has another id, and its record another place
            self._fail(run, change or worker.ended[1] or job.end_reason)
            return
        self.total.update()
        if record.final_val_loss is None:
            shown = f"{record.status}: {record.message}"
        else:
            shown = f"{record.final_val_loss:.4f} nats per token in {record.train_seconds:.1f} s"
        tqdm.write(f"{run.name}: {shown}", file=sys.stderr)

    def _fail(self, run: PlannedRun, message: str) -> None:
        self.outcome.failures[run.name] = message
        self.total.update()
        tqdm.write(f"{run.name}: failed: {message}", file=sys.stderr)

    def _stop(self, *, again: bool = False) -> None:
        """Ask every run to stop after its current step; a second Ctrl-C ends them at once."""
        for job in self.workers:
            job.stop()
        try:
            while self.workers:  # their messages are read, or a full pipe would block them
                for job in self.launcher.wait_for_messages(list(self.workers)):
                    if job.listen() is None:
                        self.workers.pop(job).bar.close()
        except KeyboardInterrupt:
            if again:
                raise
            self._stop(again=True)
