"""Flags shared by all runners, and what follows from them: places, devices, jobs. No torch."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ngpt.campaign.execution.launchers import RayLauncher
from ngpt.command import Parser, nonempty_path
from ngpt.config import RunConfig, Track
from ngpt.errors import require
from ngpt.files import write_errors_named
from ngpt.machine import has_gpu
from ngpt.presets import PRESETS
from ngpt.tracking import require_installed

if TYPE_CHECKING:
    from ngpt.training.preflight import Outlook

PUBLISHED = Path(__file__).parents[3] / "reports"
"""the repository's reports, which `--publish` rebuilds"""


def common_parser(description: str, *, preset: str, seeds: int, seeds_help: str) -> Parser:
    """Return a parser with the flags that every runner has."""
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(PRESETS), default=preset, help="size of the runs (%(default)s)")
    parser.add_argument("--data", help="as in train_architectural.py; default: the preset's")
    parser.add_argument("--tokenizer", choices=("auto", "bytes", "gpt2"), help="as in train_architectural.py")
    parser.add_argument("--shards", type=int, help="as in train_architectural.py")
    text = "do not compile steps, as the ladder's presets do: slower, but needs no C++ compiler"
    parser.add_argument("--no-compile", dest="compile", action="store_const", const=False, help=text)
    parser.add_argument("--seeds", type=int, default=seeds, help=seeds_help)
    parser.add_argument("--jobs", type=int, help="concurrent runs; default: one per core on CPUs, one on a GPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (%(default)s)")
    launcher = "run as local processes or as tasks of a Ray cluster (%(default)s)"
    parser.add_argument("--launcher", choices=("local", "ray"), default="local", help=launcher)
    where = "a running Ray cluster; default: one is started on this machine"
    parser.add_argument("--ray-address", metavar="HOST:PORT", help=where)
    parser.add_argument("--dry-run", action="store_true", help="show the plan, the number of runs and the time needed")
    parser.add_argument("--report-only", action="store_true", help="rebuild the report without running anything")
    parser.add_argument("--out", type=nonempty_path, default=Path("runs"), help="folder of run folders (%(default)s)")
    text = "send every run to this tracker, in a group called like the campaign"
    parser.add_argument("--track", choices=get_args(Track), help=text)
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--reports", type=nonempty_path, help="folder of reports; default: OUT/reports")
    places.add_argument("--publish", action="store_true", help="write to the repository's reports/, the published ones")
    return parser


def add_campaign_flags(parser: Parser) -> None:
    """Add the flags of campaigns alone: another number of seeds, and what to do instead of carrying out runs."""
    text = "seeds to compare on, others for each number of them; default: the campaign's, or --seeds if that is more"
    parser.add_argument("--comparison-seeds", type=int, metavar="N", help=text)
    text = "name of --data in reports; the campaign then has data and a report of its own there"
    parser.add_argument("--text", metavar="NAME", help=text)
    text = "data collected elsewhere, whose finished runs are not repeated here; may be given several times"
    parser.add_argument("--known", metavar="FILE", type=nonempty_path, action="append", default=[], help=text)
    text = "repeat one published run per method and compare it to the bit"
    parser.add_argument("--reproduce", action="store_true", help=text)
    text = "run nothing: write what the results at smaller presets say about this one, before its first run"
    parser.add_argument("--forecast", action="store_true", help=text)
    text = "run nothing: show how the campaign stands whenever a run has ended, until all have"
    parser.add_argument("--watch", action="store_true", help=text)


def reports_folder(given: argparse.Namespace) -> Path:
    """Return the folder of the reports to write or, with --reproduce, of those to compare with."""
    published = given.publish or (vars(given).get("reproduce") and given.reports is None)
    return PUBLISHED if published else given.reports or given.out / "reports"


def overrides_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration fields given on the command line, for every run."""
    names = ("data", "tokenizer", "shards", "steps", "time_budget_seconds", "compile")
    return {name: value for name in names if (value := getattr(given, name, None)) is not None}


def device_settings(device: str) -> dict[str, Any]:
    """Return device and threads of every run: one thread on a CPU, where another run uses a core better."""
    return {"device": "cpu", "threads": 1} if on_cpu(device) else {"device": device, "threads": 0}


def cost_of_a_run(config: RunConfig) -> "Outlook":
    """Print what one run costs, for `--dry-run`, and return it; on a CPU as one of several runs, on one thread."""
    from ngpt.training.preflight import outlook  # imported late, as it needs torch

    found = outlook(config, threads=1)
    print("one run:", *found.lines, sep="\n  ")
    return found


def seconds_of_a_run(config: RunConfig) -> float:
    """Return the predicted training time of a run on a CPU, as one of several, on one thread."""
    from ngpt.training.preflight import outlook  # imported late, as it needs torch

    return outlook(config, device="cpu", threads=1).seconds or 0.0


def on_cpu(device: str) -> bool:
    """Return whether runs use the CPU."""
    return device == "cpu" or (device == "auto" and not has_gpu())


def launch_settings(given: argparse.Namespace, jobs: int, name: str) -> dict[str, Any]:
    """Return how to carry out runs, as `execute` takes it: device, threads, launcher, and jobs unless --jobs is given.

    With --track also the tracker, with the experiment's `name` as the group of its runs. Raises InputError if the Ray
    cluster cannot be used, or if the tracker is not installed.
    """
    require_installed(given.track)
    place = device_settings(given.device)
    if given.track is not None:
        place |= {"track": given.track, "track_group": name}
    if given.launcher == "local":
        return {"jobs": given.jobs or jobs, **place}
    gpu = not on_cpu(given.device)
    launcher = RayLauncher(given.ray_address, gpu=gpu, threads=place["threads"])
    told = gpu or given.device == "cpu" or not launcher.gpus
    require(told, "--launcher ray: the cluster has GPUs and this machine has none: give --device cuda or --device cpu")
    needed = "GPU" if gpu else f"machine with {place['threads']} processor"
    why = f"--launcher ray: the cluster has no {needed}; with --jobs N runs wait until there is one"
    require(bool(given.jobs or launcher.slots), why)
    return {"jobs": given.jobs or launcher.slots, "launcher": launcher, **place}


def require_writable(*folders: Path) -> None:
    """Raise before hours of runs, rather than after them, if a folder cannot be written to."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with write_errors_named(folder), tempfile.TemporaryFile(dir=folder):
            pass  # no name that two runners could share
