"""Measure everything about a GPU in one call of at most eight minutes: `python benchmarks/gpu.py`.

Runs `kernels.py`, `optimizer_step.py` and `training_throughput.py --profile --whole-run`, each in its own process with
its own time limit, and prints a table of targets, results and limiting factors. Results are files in `--out`, by
default `benchmarks/results`. Exit code 1: a part failed or a target was missed. The tilings of the products are chosen
beforehand, by `kernels.py --tune`.

`--device cpu` goes through the same motions with small sizes. That tests the script and says nothing about speed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.saved import FOLDER
from ngpt.errors import exit_code_of
from ngpt.files import read_json
from ngpt.training.environment import choose_device

SECONDS = {"kernels": 150, "optimizer_step": 120, "training_throughput": 200}
"""Time limit of each part, in seconds."""

OPTIONS = {
    "cuda": {
        "kernels": "--rounds 20",
        "optimizer_step": "--widths 768 1024 243",
        "training_throughput": "--profile --whole-run",
    },
    "cpu": {
        "kernels": "--rounds 2",
        "optimizer_step": "--widths 24 16 --layers 1 1 --steps 2",
        "training_throughput": "--rounds 2 --profile --whole-run",
    },
}

LARGE = 2048
"""Number of rows from which the products are supposed to beat cuBLAS."""

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Claim:
    """A target figure."""

    what: str
    part: str
    target: float
    reached: Callable[[dict[str, Any]], tuple[float, str]]
    """a part's results -> the figure and its limiting factor"""
    at_most: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether the target is met."""
        return figure <= self.target if self.at_most else figure >= self.target


def slowest_product(kernel: str) -> Callable[[dict[str, Any]], tuple[float, str]]:
    """Return the smallest gain over cuBLAS among large matrices, in the tiling that training uses at each size."""

    def of(results: dict[str, Any]) -> tuple[float, str]:
        rows = [row for row in results["rows"] if row["kernel"] == kernel]
        rows = [row for row in rows if row["shape"][1] >= LARGE] or rows
        found = []
        for row in rows:
            name = row["tiling"] if row["tiling"] in row["times_faster"] else "kernel"
            shape, share = "x".join(map(str, row["shape"])), row["share_of_floor"][name]
            used = "" if row["in_training"] == "kernel" else f" (training uses {row['in_training']})"
            limit = f"{shape}, tiling {row['tiling']}{used}: floor {share:.0%} of the time"
            found.append((row["times_faster"][name]["median"], limit))
        return min(found)

    return of


def step_gain(results: dict[str, Any]) -> tuple[float, str]:
    """Return the gain of the fastest SimpleMuon with torch's own mathematics, at the first width."""
    width = results["rows"][0]["width"]
    ours = [row for row in results["rows"] if row["width"] == width and row["contender"].startswith("SimpleMuon")]
    same = [row for row in ours if results["mathematics"][row["contender"]] == results["mathematics"]["SimpleMuon"]]
    row = max(same, key=lambda row: row["times_faster"]["median"])
    share = f"floor {row['share_of_floor']:.0%} of the time"
    at = f"{row['contender']} at {width} wide: {row['milliseconds']:.2f} ms, {share}"
    return row["times_faster"]["median"], at


def throughput(results: dict[str, Any]) -> tuple[float, str]:
    """Return the throughput of a whole run with Muon, from its record; of its steps if it was stopped before."""
    first = results["rows"][0]
    shares = ", ".join(f"{part} {share:.0%}" for part, share in first["share_of_time"].items())
    limit = f"{first['arrangement']}: floor {first['share_of_floor']:.0%} of the time; {shares}"
    if "whole_run" not in results:
        return first["tokens_per_second"], f"steps alone, no whole run; {limit}"
    return results["whole_run"]["tokens_per_second"], limit


def move_share(results: dict[str, Any]) -> tuple[float, str]:
    """Return the share of both optimizers in a step with Muon."""
    first = results["rows"][0]
    moving = first["part_milliseconds"]["move"]
    return first["share_of_time"]["move"], f"{moving:.2f} ms, AdamW of embedding and head included"


CLAIMS = (
    Claim(f"A A' against cuBLAS, from {LARGE:,} rows", "kernels", 1.5, slowest_product("xxt")),
    Claim(f"b A + c A A against cuBLAS, from {LARGE:,} rows", "kernels", 1.5, slowest_product("ba_plus_cAA")),
    Claim("optimizer step against torch.optim.Muon, 155M model", "optimizer_step", 5.0, step_gain),
    Claim("tokens/s, 155m with Muon", "training_throughput", 400_000, throughput),
    Claim("the optimizers' share of a step of 32,768 tokens", "training_throughput", 0.1, move_share, at_most=True),
)


def carry_out(part: str, device: str, folder: Path, seconds: float) -> str | None:
    """Run one part; return what went wrong, or None."""
    script = f"benchmarks/{part}.py"
    command = [sys.executable, str(ROOT / script), *OPTIONS[device][part].split(), "--device", device]
    path = folder / f"{part}_{device}.json"
    print(f"\n== {script} {OPTIONS[device][part]}", flush=True)
    try:
        done = subprocess.run([*command, "--json", str(path)], timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"{script}: stopped after {seconds:.0f} s"
    return None if done.returncode == 0 else f"{script}: exit code {done.returncode}"


def shown(figure: float) -> str:
    """Return a figure with three digits, or without decimals if it is large."""
    return f"{figure:,.0f}" if figure > 1000 else f"{figure:.3g}"


def table(results: Results) -> tuple[list[str], bool]:
    """Return the lines of the table of claims, and whether all of them hold."""
    lines, all_hold = [f"{'goal':52} {'target':>9} {'measured':>10}  what limits it"], True
    for claim in CLAIMS:
        target = f"{'<=' if claim.at_most else '>='} {claim.target:,g}"
        if claim.part not in results:
            lines.append(f"{claim.what:52} {target:>9} {'-':>10}  not measured")
            all_hold = False
            continue
        figure, limit = claim.reached(results[claim.part])
        all_hold &= claim.holds(figure)
        lines.append(f"{claim.what:52} {target:>9} {shown(figure):>10}  {limit}")
    return lines, all_hold


def main(arguments: list[str]) -> int:
    """Run all parts, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=470.0, help="time limit for all parts together")
    options = parser.parse_args(arguments)
    device = choose_device(options.device).type
    if device == "cpu" and options.out == FOLDER:
        parser.error("without a GPU there is nothing worth keeping: give an --out")
    options.out.mkdir(parents=True, exist_ok=True)
    end, wrong = time.monotonic() + options.seconds, []
    results: Results = {}
    for part, most in SECONDS.items():
        seconds = min(float(most), end - time.monotonic())
        problem = carry_out(part, device, options.out.resolve(), seconds) if seconds > 1 else f"{part}: no time left"
        if problem is None:
            results[part] = read_json(options.out / f"{part}_{device}.json")
        else:
            wrong.append(problem)
    lines, all_hold = table(results)
    print("\n" + "\n".join([*lines, *wrong]))
    if device == "cpu":
        print("a CPU, small sizes: this table says nothing about speed")
        return 1 if wrong else 0
    return 0 if all_hold and not wrong else 1


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
