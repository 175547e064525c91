"""The trainer's side of a tracker (`--track`): whether it is installed, its process, and the end of it. No torch.

A process of its own (`ngpt.trackers`) reads the run's folder, and ends once the trainer has closed its end of a pipe or
has died. So a tracker changes nothing in a run, and the run waits for it only at its end, for a bounded time.
A tracker that fails is one line on standard error.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from ngpt.errors import require

FINISH_SECONDS = 60.0
"""how long a run that has ended waits for its tracker"""
STOP_SECONDS = 5.0
"""the same for a run that was asked to stop"""
FAILED = 3
"""exit code of a tracker's process that has said why"""

TRACKERS = {
    "trackio": "ngpt.trackers:Trackio", "wandb": "ngpt.trackers:Wandb", "tensorboard": "ngpt.trackers:TensorBoard",
}  # fmt: skip
"""Entry point of each tracker by the name of its package, which is that of its extra and its value of --track"""


def require_installed(kind: str | None) -> None:
    """Raise InputError, naming the extra to install, unless the package of a tracker is there."""
    if kind is not None:
        found = importlib.util.find_spec(kind)
        installed = found is not None and found.origin is not None  # else a folder that is only called so
        require(installed, f"--track {kind} needs the package {kind}: pip install -e '.[{kind}]'")


class RunTracker:
    """The tracker of a run as its trainer sees it; without a `kind` it does nothing."""

    def __init__(self, kind: str | None, folder: Path, group: str | None) -> None:
        self.kind, self.folder, self.group = kind, folder, group
        self.process: subprocess.Popen[bytes] | None = None
        self.patience = FINISH_SECONDS

    def start(self, logged: int) -> None:
        """Start to follow the run's metrics beyond step `logged`."""
        if self.kind is None:
            return
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it imports from where this process does
        command = [sys.executable, "-P", "-m", "ngpt.trackers", self.kind, TRACKERS[self.kind], str(self.folder)]
        try:
            self.process = subprocess.Popen(
                [*command, str(logged), *([] if self.group is None else [self.group])], env=os.environ | variables,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0,
                start_new_session=True,  # Ctrl-C is not for it
            )  # fmt: skip
        except OSError as error:
            complain(self.kind, str(error))

    def close(self) -> None:
        """Let the tracker finish; end it if it takes more than `patience` seconds."""
        if self.kind is None or self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(self.patience)
            if code not in (0, FAILED):
                complain(self.kind, f"its process ended with code {code}")
        except subprocess.TimeoutExpired:
            complain(self.kind, f"not finished after {self.patience:g} s")
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def complain(kind: str, why: str, stream: TextIO | None = None) -> None:
    """Print a warning of one line on standard error, or on `stream`."""
    text = " ".join(why.split())[:200]
    print(f"warning: --track {kind}: {text}; the run goes on without it", file=stream or sys.stderr, flush=True)
