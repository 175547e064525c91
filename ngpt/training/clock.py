"""The clock of a run: what counts as training time, and when the run is over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ngpt.config import TrainConfig
from ngpt.ranks import Ranks
from ngpt.training.record import RunRecord


class RunClock:
    """Adds up the time of a run in its record: steps in `train_seconds`, whatever is `paused` in `eval_seconds`.

    The first step of a process is start-up, in which it allocates, selects kernels and compiles; it does not count.
    """

    def __init__(self, record: RunRecord, train: TrainConfig, ranks: Ranks) -> None:
        self.record, self.train, self.ranks = record, train, ranks
        self.now = time.process_time if train.clock == "cpu" else time.perf_counter
        self.starting_up = True
        self.paused_seconds = self.step_seconds = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time the block as one training step; afterwards `step_seconds` is what it took."""
        begin, self.paused_seconds = self.now(), 0.0
        yield
        seconds = self.now() - begin - self.paused_seconds
        if self.train.time_budget_seconds is not None:
            seconds = self.ranks.broadcast_value(seconds)  # all ranks must stop at the same step
        if not self.starting_up:
            self.record.train_seconds += seconds
            self.record.timed_steps += 1
        self.starting_up, self.step_seconds = False, seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time the block as evaluation, inside a step or outside."""
        begin = self.now()
        yield
        seconds = self.now() - begin
        self.paused_seconds += seconds
        self.record.eval_seconds += seconds

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, in [0, 1]: of its steps or, if it has one, of its time budget."""
        budget = self.train.time_budget_seconds
        if budget is None:
            return self.record.steps / self.train.steps
        return min(1.0, self.record.train_seconds / budget)

    @property
    def finished(self) -> bool:
        """Return whether all steps are made or, with a time budget, its end is nearer now than after another step."""
        record, budget = self.record, self.train.time_budget_seconds
        if budget is None:
            return record.steps >= self.train.steps
        return record.train_seconds * (1 + 0.5 / max(1, record.timed_steps)) >= budget
