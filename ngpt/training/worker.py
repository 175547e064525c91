"""The process of one run in a campaign. It imports only the trainer, which its fork server has already loaded."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError

PROGRESS_SECONDS = 0.2
"""Least time between two progress reports."""

Message = tuple[str, Any]
"""A message from a run to its runner: ("step", (step, loss)), ("busy", "") or ("error", message)"""


def carry_out_run(config: RunConfig, runtime: Runtime, planned: str, connection: Connection) -> None:
    """Train in a process group of its own, so that Ctrl-C does not reach it, and report through `connection`.

    planned: the run's id as its runner computed it.
    """
    os.setpgrp()
    last = 0.0

    def report(step: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            try:
                connection.send(("step", (step, loss)))
            except BrokenPipeError:  # the runner is gone: stop as if asked to
                os.kill(os.getpid(), signal.SIGTERM)

    for message in _train(config, runtime, planned, report)[0]:
        connection.send(message)


class StoppedError(Exception):
    """A run was stopped, but not by its runner: its machine goes down, and Ray should try the run again elsewhere."""


def carry_out_task(config: RunConfig, runtime: Runtime, planned: str, folder: str) -> list[Message]:
    """Train as a task of a cluster in the working directory `folder`; return the messages left at the end."""
    os.chdir(folder)
    messages, stopped = _train(config, runtime, planned, None)
    if stopped:
        raise StoppedError("stopped by a signal")
    return messages


def _train(
    config: RunConfig, runtime: Runtime, planned: str, report: Callable[[int, float], None] | None
) -> tuple[list[Message], bool]:
    """Train; return the messages left at the end, and whether the run was stopped before its end."""
    try:
        from ngpt.training.folder import RunBusyError
        from ngpt.training.trainer import train
    except SyntaxError as error:
        return [("error", f"{error.filename}, line {error.lineno}: {error.msg}")], False
    try:
        _, record = train(config, runtime, report, planned=planned)
    except RunBusyError:
        return [("busy", "")], False
    except (InputError, OSError) as error:
        return [("error", " ".join(str(error).split()))], False
    return [], record.status == "killed"
