"""The process of one run. It imports nothing but the trainer, which its fork server already holds."""

import os
import signal
import time
from multiprocessing.connection import Connection

from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError

PROGRESS_SECONDS = 0.2
"""Shortest time between two reports of progress."""


def carry_out_run(config: RunConfig, runtime: Runtime, connection: Connection) -> None:
    """Train, and tell the runner through `connection`: ("step", (step, loss)), ("busy", ""), ("error", message)."""
    os.setpgrp()
    from ngpt.training.folder import RunBusyError
    from ngpt.training.trainer import train

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

    try:
        train(config, runtime, report)
    except RunBusyError:
        connection.send(("busy", ""))
    except (InputError, OSError) as error:
        connection.send(("error", " ".join(str(error).split())))
