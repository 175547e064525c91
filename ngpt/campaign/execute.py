"""Carrying out planned runs: each in a process of its own, a few at a time, resumable, with progress.

Ctrl-C reaches only the runner, which asks every run to stop after its step and to leave a checkpoint.
"""

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ngpt.campaign.launchers import Job, Launcher, LocalLauncher
from ngpt.campaign.plan import PlannedRun
from ngpt.config import Runtime
from ngpt.training.record import RunRecord, read_record
from ngpt.training.worker import PROGRESS_SECONDS

FINISHED = ("done", "diverged")
BUSY_SECONDS = 2.0


def finished_record(out: Path, run_id: str) -> RunRecord | None:
    """The record of a run that ended by itself, done or diverged; None if there is none (yet)."""
    folder = out / run_id
    if not (folder / "record.json").exists():
        return None
    record = read_record(folder)
    return record if record.status in FINISHED else None


@dataclass
class Outcome:
    """What happened to the runs that were asked for."""

    failures: dict[str, str] = field(default_factory=dict)
    """message by run name, of runs that ended without a result"""
    interrupted: bool = False


def execute(
    runs: list[PlannedRun], *, out: Path, jobs: int, device: str, threads: int, launcher: Launcher | None = None
) -> Outcome:
    """Carry out the runs that are not finished yet, `jobs` at a time, by `launcher`: on this machine if None is given.

    A run that another runner is working on is left to it and looked at again later. A failed run does not stop the
    others.
    """
    pending = deque(run for run in runs if finished_record(out, run.run_id) is None)
    execution = _Execution(
        out=out, jobs=jobs, device=device, threads=threads, total=len(runs), launcher=launcher or LocalLauncher()
    )
    return execution.carry_out(pending)


@dataclass
class _Worker:
    run: PlannedRun
    job: Job
    bar: "tqdm[Any]"
    message: str = ""
    busy: bool = False


class _Execution:
    def __init__(self, *, out: Path, jobs: int, device: str, threads: int, total: int, launcher: Launcher) -> None:
        self.out, self.jobs, self.device, self.threads = out, jobs, device, threads
        self.launcher, self.total = launcher, total
        self.outcome = Outcome()
        self.workers: dict[int, _Worker] = {}
        self.not_before: dict[str, float] = {}

    def carry_out(self, pending: "deque[PlannedRun]") -> Outcome:
        hide = not sys.stderr.isatty()
        done = self.total - len(pending)
        with tqdm(total=self.total, initial=done, unit="run", desc="campaign", disable=hide, file=sys.stderr) as total:
            try:
                while pending or self.workers:
                    self._start(pending)
                    self._listen(pending, total)
            except KeyboardInterrupt:
                self._stop()
                self.outcome.interrupted = True
        return self.outcome

    def _start(self, pending: "deque[PlannedRun]") -> None:
        for slot in range(self.jobs):
            if slot in self.workers or not pending:
                continue
            now = time.monotonic()
            ready = next((run for run in pending if self.not_before.get(run.run_id, 0.0) <= now), None)
            if ready is None:
                return
            pending.remove(ready)
            runtime = Runtime(
                out=self.out, name=ready.name, device=self.device, threads=self.threads, resume=True,  # type: ignore[arg-type]
                keep_weights=ready.stage == "pretraining", progress=False,
            )  # fmt: skip
            job = self.launcher.start(ready.config, runtime, self.out / ready.run_id)
            settings = ready.config.train
            bar = tqdm(
                total=settings.steps if settings.time_budget_seconds is None else None,
                desc=f"  {ready.name}", unit="step", position=slot + 1, leave=False,
                disable=not sys.stderr.isatty(), file=sys.stderr,
            )  # fmt: skip
            self.workers[slot] = _Worker(ready, job, bar)

    def _listen(self, pending: "deque[PlannedRun]", total: "tqdm[Any]") -> None:
        if not self.workers:  # every run left is with another runner
            time.sleep(PROGRESS_SECONDS)
            return
        slots = {id(worker.job): slot for slot, worker in self.workers.items()}
        for job in self.launcher.with_news([worker.job for worker in self.workers.values()], 1.0):
            slot = slots[id(job)]
            worker, message = self.workers[slot], job.listen()
            if message is None:
                self._end(slot, pending, total)
                continue
            kind, content = message
            if kind == "step":
                step, loss = content
                worker.bar.update(step - worker.bar.n)
                worker.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            elif kind == "busy":
                worker.busy = True
            else:
                worker.message = content

    def _end(self, slot: int, pending: "deque[PlannedRun]", total: "tqdm[Any]") -> None:
        worker = self.workers.pop(slot)
        worker.bar.close()
        run = worker.run
        if worker.busy:
            self.not_before[run.run_id] = time.monotonic() + BUSY_SECONDS
            pending.append(run)
            return
        record = finished_record(self.out, run.run_id)
        total.update()
        if record is None:
            message = worker.message or worker.job.ending()
            self.outcome.failures[run.name] = message
            shown = f"failed: {message}"
        elif record.final_val_loss is None:
            shown = f"{record.status}: {record.message}"
        else:
            shown = f"{record.final_val_loss:.4f} nats per token in {record.train_seconds:.1f} s"
        tqdm.write(f"{run.name}: {shown}", file=sys.stderr)

    def _stop(self) -> None:
        """Ask every run to stop after its step; a second Ctrl-C ends them at once."""
        tqdm.write("stopping: each run finishes its step and leaves a checkpoint", file=sys.stderr)
        going_on = [worker.job for worker in self.workers.values()]
        for round_ in range(2):
            for job in going_on:
                job.stop()
            try:
                while going_on:  # what they say is read, or they could not go on saying it
                    for job in self.launcher.with_news(going_on, 1.0):
                        if job.listen() is None:
                            going_on.remove(job)
                for worker in self.workers.values():
                    worker.bar.close()
                return
            except KeyboardInterrupt:
                if round_:
                    raise
