"""Where runs are carried out: in processes of this machine, or as tasks of a Ray cluster.

Either way a run is a process of its own that writes the run's folder; what it says on the way is only for people.
"""

import importlib
import math
import multiprocessing
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError, first_line
from ngpt.training.record import latest_metrics
from ngpt.training.worker import PROGRESS_SECONDS, Message, StoppedError, carry_out_run, carry_out_task

RETRIES = 10
"""How often a run is tried again, from its checkpoint, after its worker or its machine was lost"""


class Job(Protocol):
    """A run that was started."""

    def listen(self) -> Message | None:
        """What it says next; None once it has ended. Does not wait if the launcher said that there is news."""

    def stop(self) -> None:
        """Ask it to end after its step; a second time, at once."""

    def ending(self) -> str:
        """How it ended, in words; after `listen` has returned None."""


class Launcher(Protocol):
    """Starts runs."""

    def start(self, config: RunConfig, runtime: Runtime, folder: Path) -> Job:
        """Begin the run whose folder is `folder`."""

    def with_news(self, jobs: Sequence[Any], seconds: float) -> list[Any]:
        """Those of `jobs` that have something to say or have ended; waits for the first, at most `seconds`."""


# --- this machine ----------------------------------------------------------------------------------------------------


class LocalJob:
    """A process of this machine."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process, self.connection = process, connection

    def listen(self) -> Message | None:
        """As in `Job`."""
        try:
            message: Message = self.connection.recv()
        except EOFError:
            self.process.join()
            self.connection.close()
            return None
        return message

    def stop(self) -> None:
        """As in `Job`."""
        if self.process.is_alive():
            self.process.terminate()

    def ending(self) -> str:
        """As in `Job`."""
        return f"its process ended with code {self.process.exitcode}"


class LocalLauncher:
    """Processes that come from a fork server, which has imported the trainer once.

    So a run starts in milliseconds instead of the seconds that importing PyTorch takes. Each is in a process group of
    its own: Ctrl-C reaches only the runner.
    """

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self.context.set_forkserver_preload(["ngpt.training.preload"])

    def start(self, config: RunConfig, runtime: Runtime, folder: Path) -> LocalJob:
        """As in `Launcher`."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=carry_out_run, args=(config, runtime, sender))
        process.start()
        sender.close()
        return LocalJob(process, receiver)

    def with_news(self, jobs: Sequence[LocalJob], seconds: float) -> list[LocalJob]:
        """As in `Launcher`."""
        by_connection = {job.connection: job for job in jobs}
        return [by_connection[one] for one in wait(list(by_connection), timeout=seconds)]  # type: ignore[index]


# --- a Ray cluster ---------------------------------------------------------------------------------------------------


class RayJob:
    """A task of the cluster. Its steps are read from the run's folder, which all machines see."""

    def __init__(self, ray: Any, task: Any, folder: Path) -> None:
        self.ray, self.task, self.folder, self.step = ray, task, folder, 0.0
        self.messages: deque[Message] = deque()
        self.over, self.asked, self.how = False, False, "its task ended without a result"

    def look(self) -> None:
        """Note how far the run is or, if it has ended, what the task has said."""
        if self.over:
            return
        if not self.ray.wait([self.task], timeout=0)[0]:
            row = latest_metrics(self.folder)
            if row is not None and row["step"] != self.step:
                self.step = row["step"]
                self.messages.append(("step", (int(row["step"]), row.get("loss", math.nan))))
            return
        self.over = True
        try:
            self.messages.extend(self.ray.get(self.task))
        except self.ray.exceptions.TaskCancelledError:
            self.how = "stopped"
        except self.ray.exceptions.RayError as error:
            self.how = f"{type(error).__name__}: {first_line(error)}"

    def listen(self) -> Message | None:
        """As in `Job`."""
        return self.messages.popleft() if self.messages else None

    def stop(self) -> None:
        """As in `Job`."""
        self.ray.cancel(self.task, force=self.asked)
        self.asked = True

    def ending(self) -> str:
        """As in `Job`."""
        return self.how


class RayLauncher:
    """Tasks of a Ray cluster, each with its need of processors or a GPU; a lost one is tried again.

    All machines see the checkout, the data and the folder of runs under the same paths.
    """

    def __init__(self, address: str | None, *, gpu: bool, threads: int) -> None:
        """address: of a running cluster; None: one that is started on this machine. Raises InputError without Ray."""
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise InputError("--launcher ray needs Ray: pip install -e '.[ray]'") from error
        if address is not None:
            _require_reachable(address)
        root = str(Path(__file__).parents[2])
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        try:
            ray.init(
                address=address or "local",  # else Ray would join whatever cluster runs on this machine
                runtime_env={"env_vars": variables},
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="error",
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "--launcher ray" if address is None else f"--ray-address {address}"
            raise InputError(f"{where}: {first_line(error)}") from error
        self.ray = ray
        needs = {"num_gpus": 1} if gpu else {"num_cpus": max(1, threads)}
        again: Any = {"max_retries": RETRIES, "retry_exceptions": [StoppedError]}
        self.task = ray.remote(max_calls=1, **again, **needs)(carry_out_task)
        resources = ray.cluster_resources()
        self.places = int(resources.get("GPU", 0) if gpu else resources.get("CPU", 0) // max(1, threads))
        """Runs that the cluster has room for at once"""

    def start(self, config: RunConfig, runtime: Runtime, folder: Path) -> RayJob:
        """As in `Launcher`."""
        return RayJob(self.ray, self.task.remote(config, runtime, os.getcwd()), folder)

    def with_news(self, jobs: Sequence[RayJob], seconds: float) -> list[RayJob]:
        """As in `Launcher`."""
        self.ray.wait([job.task for job in jobs], timeout=min(seconds, PROGRESS_SECONDS))
        for job in jobs:
            job.look()
        return [job for job in jobs if job.over or job.messages]


def _require_reachable(address: str) -> None:
    """Raise InputError unless something listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) >= 2**16:
        raise InputError(f"--ray-address {address}: not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"--ray-address {address}: {error.strerror or error}") from error
