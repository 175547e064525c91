"""Runners of the small campaign that begin at once, in processes that tests kill and let run side by side."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

from mini_campaign import CAMPAIGN, carry_out

from ngpt.errors import exit_code_of


def started(folder: Path, *flags: str, says: str) -> Any:
    """A runner in a process of its own, which adds what it prints to `says`.out and `says`.err in `folder`.

    Its workers come from the fork server that it comes from itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ngpt.training.preload", "ngpt.campaign.command"])
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server.ensure_running()
    process = context.Process(target=_runner, args=(folder, flags, folder / says, server._forkserver_address))
    process.start()
    return process


def _runner(folder: Path, flags: tuple[str, ...], says: Path, fork_server: str) -> None:
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_address = fork_server  # or it would begin one of its own, which imports PyTorch for seconds
    server.ensure_running = lambda: None
    sys.modules["__main__"] = ModuleType("__main__")  # or every worker would import the tests' own
    for number, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(says.with_suffix(ending), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    places = ["--data", str(folder / "text.txt"), "--out", str(folder / "runs"), "--reports", str(folder / "r")]
    sys.exit(exit_code_of(lambda: carry_out(CAMPAIGN, [*places, *flags])))


def workers_beside(runner_pid: int) -> list[int]:
    """The other children of the fork server that are alive, those of killed runners among them."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # gone meanwhile
        if int(parent) == server and state != "Z" and int(stat.parent.name) != runner_pid:
            found.append(int(stat.parent.name))
    return found
