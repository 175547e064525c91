"""A run that only waits, for the test of very many; its process imports next to nothing."""

import time
from typing import Any

from ngpt.config import RunConfig, Runtime
from ngpt.training.record import RunRecord

SECONDS = 0.05
"""Of a run that only waits."""


def wait_and_record(config: RunConfig, runtime: Runtime, planned: str, connection: Any) -> None:
    """In the place of a run: progress, then a record."""
    folder = runtime.out / f"muon-{'0' * 10}-s{config.seed}"
    folder.mkdir(parents=True)
    for step in range(5):
        connection.send(("step", (step, 1.0)))
        time.sleep(SECONDS / 5)
    record = RunRecord(run_id=folder.name, digest="0" * 64, name="", status="done", seed=config.seed, config={})
    record.final_val_loss = 1.0
    record.write(folder)
