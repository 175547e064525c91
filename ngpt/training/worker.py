"""The process of one run. It imports nothing but the trainer, which its fork server already holds."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError

PROGRESS_SECONDS = 0.2
"""Shortest time between two reports of progress."""

Message = tuple[str, Any]
"""What a run tells its runner: ("step", (step, loss)), ("busy", ""), ("error", message)"""


def carry_out_run(config: RunConfig, runtime: Runtime, connection: Connection) -> None:
    """Train in a process group of its own, so that Ctrl-C does not reach it; tell the runner through `connection`."""
    os.setpgrp()
    last = 0.0

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PROGRESS_SECONDS:
            return
        last = now
        try:
            connection.send(("step", (step, loss)))
        except BrokenPipeError:  # the runner is gone: stop as if asked to
            os.kill(os.getpid(), signal.SIGTERM)

    messages, _ = _train(config, runtime, report)
    for message in messages:
        connection.send(message)


class StoppedError(Exception):
    """A run was asked to stop, and not by its runner, for which Ray does not try it again: its machine goes down."""


def carry_out_task(config: RunConfig, runtime: Runtime, folder: str) -> list[Message]:
    """Train as a task of a cluster, with `folder` as the working directory; what remains to be told at the end."""
    os.chdir(folder)
    messages, stopped = _train(config, runtime, None)
    if stopped:
        raise StoppedError("stopped by a signal")
    return messages


def _train(
    config: RunConfig, runtime: Runtime, report: Callable[[int, float], None] | None
) -> tuple[list[Message], bool]:
    """What remains to be told, and whether the run was stopped before its end."""
    from ngpt.training.folder import RunBusyError
    from ngpt.training.trainer import train

    try:
        _, record = train(config, runtime, report)
    except RunBusyError:
        return [("busy", "")], False
    except (InputError, OSError) as error:
        return [("error", " ".join(str(error).split()))], False
    return [], record.status == "killed"
