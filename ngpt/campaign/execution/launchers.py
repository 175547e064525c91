"""Launchers: runs as processes of this machine, or as tasks of a Ray cluster.

Either way a run is a process of its own that writes the run's folder; its progress messages are only for people.
"""

import importlib
import math
import multiprocessing
import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ngpt.config import RunConfig, Runtime
from ngpt.errors import InputError, as_input_error, first_line, require
from ngpt.training import ahead
from ngpt.training.record import latest_metrics
from ngpt.training.worker import PROGRESS_SECONDS, Message, StoppedError, carry_out_run, carry_out_task


class LocalJob:
    """A run in a process of this machine."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process, self.connection = process, connection

    def listen(self) -> Message | None:
        """Return the next message, None once the run has ended; does not block on jobs `wait_for_messages` listed."""
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            self.connection.close()
            return None

    def stop(self) -> None:
        """Ask the run to stop after its current step."""
        if self.process.is_alive():
            self.process.terminate()

    @property
    def end_reason(self) -> str:
        """Describe how the run ended, once `listen` has returned None."""
        return f"its process ended with code {self.process.exitcode}"


class LocalLauncher:
    """Processes forked from a server that has imported the trainer once.

    A run then starts in milliseconds instead of the seconds that importing PyTorch takes. Each is in its own process
    group, so that Ctrl-C reaches only the runner.
    """

    def __init__(self, compiled: Iterable[RunConfig] = ()) -> None:
        """compiled: runs on one thread for which the server, unless it is running, compiles before they start."""
        ahead.want(compiled)
        self.context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        self.context.set_forkserver_preload(["ngpt.training.preload"])

    def start(self, config: RunConfig, runtime: Runtime, folder: Path) -> LocalJob:
        """Start a run; `folder` is its folder."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=carry_out_run, args=(config, runtime, folder.name, sender))
        try:
            process.start()
        except OSError as error:
            if "AF_UNIX path too long" not in str(error):
                raise
            where = tempfile.gettempdir()
            raise InputError(f"TMPDIR has to be shorter, since processes open sockets there: {where}") from error
        sender.close()
        return LocalJob(process, receiver)

    def wait_for_messages(self, jobs: Sequence[Any]) -> list[Any]:
        """Return those of `jobs` that have a message or have ended; waits at most a second for the first."""
        by_connection = {job.connection: job for job in jobs}
        return [by_connection[one] for one in wait(list(by_connection), timeout=1.0)]


class RayJob:
    """A run as a task of the cluster. Its progress is read from the run's folder, which all machines see."""

    def __init__(self, ray: Any, task: Any, folder: Path) -> None:
        self.ray, self.task, self.folder, self.step = ray, task, folder, 0.0
        self.messages: deque[Message] = deque()
        self.ended, self.stop_requested, self.end_reason = False, False, "its task ended without a result"

    def poll(self) -> None:
        """Record how far the run is or, if it has ended, the messages of its task."""
        if self.ended:
            return
        if not self.ray.wait([self.task], timeout=0)[0]:
            row = latest_metrics(self.folder)
            if row is not None and row["step"] != self.step:
                self.step = row["step"]
                self.messages.append(("step", (int(row["step"]), row.get("loss", math.nan))))
            return
        self.ended = True
        try:
            self.messages.extend(self.ray.get(self.task))
        except self.ray.exceptions.TaskCancelledError:
            self.end_reason = "stopped"
        except self.ray.exceptions.RayError as error:
            self.end_reason = f"{type(error).__name__}: {first_line(error)}"

    def listen(self) -> Message | None:
        """Return the next message that `poll` recorded, None if there is none."""
        return self.messages.popleft() if self.messages else None

    def stop(self) -> None:
        """Ask the run to stop after its current step; when called again, at once."""
        self.ray.cancel(self.task, force=self.stop_requested)
        self.stop_requested = True


class RayLauncher:
    """Tasks of a Ray cluster, each with the processors or the GPU it needs.

    One whose worker or machine is lost is tried again from its checkpoint, up to 10 times.
    All machines must see the checkout, the data and the folder of runs under the same paths.
    """

    def __init__(self, address: str | None, *, gpu: bool, threads: int) -> None:
        """Connect to the cluster at `address`, or start one on this machine. Raises InputError if that fails."""
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise InputError("--launcher ray needs Ray: pip install -e '.[ray]'") from error
        if address is not None:
            _require_reachable(address)
        else:
            os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a run stands still beside other work
        root = str(Path(__file__).parents[3])
        variables = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        variables |= {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        where = "--launcher ray" if address is None else f"--ray-address {address}"
        with as_input_error(where, ConnectionError, RuntimeError, ValueError):
            ray.init(
                address=address or "local",  # without it Ray joins whatever cluster runs on this machine
                runtime_env={"env_vars": variables}, include_dashboard=None if address else False,
                log_to_driver=False, logging_level="error",
            )  # fmt: skip
        self.ray = ray
        needs = {"num_gpus": 1} if gpu else {"num_cpus": max(1, threads)}
        again: Any = {"max_retries": 10, "retry_exceptions": [StoppedError]}
        self.task = ray.remote(max_calls=1, **again, **needs)(carry_out_task)
        resources = ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        self.slots = int(self.gpus if gpu else resources.get("CPU", 0) // max(1, threads))
        """runs that fit on the cluster at once"""

    def start(self, config: RunConfig, runtime: Runtime, folder: Path) -> RayJob:
        """Start a run; `folder` is its folder."""
        return RayJob(self.ray, self.task.remote(config, runtime, folder.name, os.getcwd()), folder)

    def wait_for_messages(self, jobs: Sequence[Any]) -> list[Any]:
        """Return those of `jobs` that have a message or have ended; waits at most `PROGRESS_SECONDS` for the first."""
        self.ray.wait([job.task for job in jobs], timeout=PROGRESS_SECONDS)
        for job in jobs:
            job.poll()
        return [job for job in jobs if job.ended or job.messages]


def _require_reachable(address: str) -> None:
    """Raise InputError unless something listens at HOST:PORT; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    require(bool(host) and port.isdigit() and int(port) < 2**16, f"--ray-address {address}: not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"--ray-address {address}: {error.strerror or error}") from error
