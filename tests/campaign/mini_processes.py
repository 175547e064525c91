"""What the tests of killed and of large campaigns run in processes of their own, which import nothing else for it."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from mini_campaign import CAMPAIGN

from ngpt.campaign.command import carry_out
from ngpt.config import RunConfig, Runtime
from ngpt.errors import exit_code_of
from ngpt.training.record import RunRecord

STEPS = "100"


def runner(folder: Path) -> None:
    """A runner in a process of its own; its workers come from the fork server that it comes from itself."""
    os.dup2(os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    arguments = ["--data", str(folder / "text.txt"), "--out", str(folder / "runs"), "--reports", str(folder / "r")]
    sys.exit(exit_code_of(lambda: carry_out(CAMPAIGN, [*arguments, "--steps", STEPS, "--jobs", "2"])))


SECONDS = 0.05
"""Of a run that only waits."""


def wait_and_record(config: RunConfig, runtime: Runtime, connection: Any) -> None:
    """In the place of a run: progress, then a record."""
    folder = runtime.out / f"muon-{'0' * 10}-s{config.seed}"
    folder.mkdir(parents=True)
    for step in range(5):
        connection.send(("step", (step, 1.0)))
        time.sleep(SECONDS / 5)
    record = RunRecord(run_id=folder.name, digest="0" * 64, name="", status="done", seed=config.seed, config={})
    record.final_val_loss = 1.0
    record.write(folder)
