"""Do the faster paths end at the same loss as the plain one? `python benchmarks/paths.py`.

An A/A test: the same runs on five seeds each, changing only how they are executed, or in which precision. The rule,
fixed before the runs: a path has no effect that matters if the 95% t interval of its paired difference in final
validation loss lies within 0.02 nats per token, the smallest effect that matters in most campaigns here.

`--against FOLDER` also compares with the code of another checkout, such as the commit before a change, path by path.
There, weights equal to the bit are the answer.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.saved import FOLDER, save
from ngpt.campaign.analysis.statistics import paired_difference
from ngpt.errors import exit_code_of
from ngpt.machine import core_count
from ngpt.training.environment import choose_device, commit, device_name

MATTERS = 0.02
"""Smallest effect that matters, in nats per token."""

PLAIN = "plain"
"""The reference: eager and, on a GPU, launched kernel by kernel."""

EAGER = "--no-compile --dtype float32"

PATHS = {
    "cpu": {
        PLAIN: EAGER,
        "compiled": "--compile --dtype float32",
        "orthogonalizer in bfloat16": f"{EAGER} --polar-dtype bfloat16",
        "all products in bfloat16": "--no-compile --dtype bfloat16",
    },
    "cuda": {
        PLAIN: f"{EAGER} --no-cuda-graphs",
        "CUDA graphs": EAGER,
        "CUDA graphs, compiled": "--compile --dtype float32",
        "CUDA graphs, orthogonalizer in bfloat16": f"{EAGER} --polar-dtype bfloat16",
        "CUDA graphs, all products in bfloat16": "--no-compile --dtype bfloat16",
    },
}
"""Flags of each path, whatever the preset's own are"""

Run = dict[str, Any]


def carried_out(tree: Path, flags: str, seed: int, device: str) -> Run:
    """Run the code in `tree` once and return the record."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = f"--seed {seed} --device {device} --threads 1 --no-progress --no-keep-weights --out {folder}"
        command = [sys.executable, str(tree / "train_architectural.py"), *flags.split(), *fixed.split()]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tree)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        (path,) = Path(folder).glob("*/record.json")
        return dict(json.loads(path.read_text()))


def row_of(name: str, runs: list[Run], reference: str, others: list[Run]) -> dict[str, Any]:
    """Return a path's paired difference from its reference, as a row of results."""
    losses, theirs = (np.array([run["final_val_loss"] for run in some]) for some in (runs, others))
    found = paired_difference(losses, theirs)
    digests, their_digests = ([run["weights_sha256"]["final"] for run in some] for some in (runs, others))
    return {
        "path": name,
        "against": reference,
        "engine": runs[0].get("engine"),
        "difference": found.mean,
        "low": found.t_low,
        "high": found.t_high,
        "no_effect_that_matters": -MATTERS < found.t_low and found.t_high < MATTERS,
        "same_bits": sum(one == other for one, other in zip(digests, their_digests, strict=True)),
        "losses": losses.tolist(),
    }


def main(arguments: list[str]) -> int:
    """Run everything, one run per core on a CPU, then print a table; return 1 if a path has an effect that matters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each path")
    parser.add_argument("--flags", default="--preset tiny", help="flags shared by all runs")
    parser.add_argument("--against", type=Path, help="another checkout, whose code is compared as well")
    parser.add_argument(
        "--paths-against", nargs="+", default=[PLAIN], metavar="PATH", help="paths that the checkout supports, too"
    )
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("an interval needs at least two seeds")
    device = choose_device(options.device)
    if not set(options.paths_against) <= set(PATHS[device.type]):
        parser.error(f"--paths-against: the paths of this device are {', '.join(PATHS[device.type])}")
    paths = {name: (ROOT, flags) for name, flags in PATHS[device.type].items()}
    reference = dict.fromkeys(paths, PLAIN)
    if options.against is not None:
        for name in options.paths_against:
            other = f"{name}, code of {commit(options.against)}"
            paths[other], reference[other] = (options.against.resolve(), paths[name][1]), name
    plan = [(name, seed) for seed in range(options.seeds) for name in paths]
    with ThreadPoolExecutor(core_count() if device.type == "cpu" else 1) as pool:
        records = list(
            pool.map(
                lambda job: carried_out(
                    paths[job[0]][0], f"{options.flags} {paths[job[0]][1]}", 110_000 + job[1], device.type
                ),
                plan,
            )
        )
    runs: dict[str, list[Run]] = {name: [] for name in paths}
    for (name, _), record in zip(plan, records, strict=True):
        runs[name].append(record)
    rows = [row_of(name, runs[name], reference[name], runs[reference[name]]) for name in paths if name != PLAIN]
    print(f"{'path':44} {'difference in final loss, 95% interval':38} within {MATTERS}  same bits")
    for row in rows:
        interval = f"{row['difference']:+.5f} [{row['low']:+.5f}, {row['high']:+.5f}]"
        answer = "yes" if row["no_effect_that_matters"] else "NO"
        print(f"{row['path']:44} {interval:38} {answer:>11}  {row['same_bits']:3} of {options.seeds}")
    against = f" --against <checkout of {commit(options.against)}>" if options.against is not None else ""
    against += f" --seeds {options.seeds}"
    if options.paths_against != [PLAIN]:
        against += f" --paths-against {shlex.join(options.paths_against)}"
    content = {
        "command": f"python benchmarks/paths.py --flags '{options.flags}'{against}",
        "measured_on": {"device": device_name(device)},
        "seeds": options.seeds,
        "matters": MATTERS,
        "plain": [run["final_val_loss"] for run in runs[PLAIN]],
        "rows": rows,
    }
    save(str((options.json or FOLDER / f"paths_{device.type}.json").resolve().with_suffix("")), content)
    return 0 if all(row["no_effect_that_matters"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
