"""What all campaign commands share: flags, where runs go, and refusing early what could not be written. No torch."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ngpt.campaign.launchers import RayLauncher
from ngpt.command import Parser
from ngpt.errors import InputError
from ngpt.files import replaced_atomically
from ngpt.machine import core_count, has_nvidia_gpu
from ngpt.presets import PRESETS

ASSUMED_FLOPS = 1e10
"""Floating-point operations a second of one CPU core, for `--dry-run` where no finished run tells the speed."""


def common_parser(description: str, *, preset: str, seeds: int, seeds_help: str) -> Parser:
    """The flags that every runner has."""
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(PRESETS), default=preset, help="size of the runs (%(default)s)")
    parser.add_argument("--data", help="as in train_architectural.py; the preset's if not given")
    parser.add_argument("--tokenizer", choices=("auto", "bytes", "gpt2"), help="as in train_architectural.py")
    parser.add_argument("--shards", type=int, help="as in train_architectural.py")
    parser.add_argument("--seeds", type=int, default=seeds, help=seeds_help)
    parser.add_argument("--jobs", type=int, help="runs at once; one a core on CPUs, one on a GPU if not given")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where runs go (%(default)s)")
    parser.add_argument(
        "--launcher", choices=("local", "ray"), default="local",
        help="where runs go: processes here, or tasks of a Ray cluster (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of a running Ray cluster; one is started here if not given",
    )
    parser.add_argument("--dry-run", action="store_true", help="show plan, number of runs and estimated time")
    parser.add_argument("--report-only", action="store_true", help="rebuild the report from what is there")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of run folders (%(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (%(default)s)")
    return parser


def overrides_of(given: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The configuration fields that were given on the command line, for every run."""
    names = ("data", "tokenizer", "shards", *more)
    return {name: value for name in names if (value := getattr(given, name, None)) is not None}


def where(device: str) -> Mapping[str, Any]:
    """Device and threads of every run: one thread on a CPU, where a core does more as another run."""
    return {"device": "cpu", "threads": 1} if on_cpu(device) else {"device": device, "threads": 0}


def on_cpu(device: str) -> bool:
    """Whether runs go to the CPU."""
    return device == "cpu" or (device == "auto" and not has_nvidia_gpu())


def launched(given: argparse.Namespace, jobs: int | None = None) -> dict[str, Any]:
    """How runs are carried out, for `execute`: device, threads, launcher and jobs, for which a number may be given."""
    place = where(given.device)
    if given.launcher == "local":
        if given.ray_address is not None:
            raise InputError("--ray-address has no effect without --launcher ray")
        return {"jobs": given.jobs or jobs or default_jobs(given.device), **place}
    gpu = not on_cpu(given.device)
    launcher = RayLauncher(given.ray_address, gpu=gpu, threads=place["threads"])
    if not (given.jobs or launcher.places):
        needed = "GPU" if gpu else f"machine with {place['threads']} processor"
        raise InputError(f"--launcher ray: the cluster has no {needed}; with --jobs N runs wait until there is one")
    return {"jobs": given.jobs or launcher.places, "launcher": launcher, **place}


def default_jobs(device: str) -> int:
    """Runs at once on this machine: one a core, or one on a GPU."""
    return core_count() if on_cpu(device) else 1


def require_writable(*folders: Path) -> None:
    """Refuse before hours of runs, not after them."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(folder / ".writable") as temporary:
            temporary.touch()
        (folder / ".writable").unlink()
