"""What an option of SimpleMuon costs beside its linear step: `python benchmarks/step_options.py`.

Every option steps its own float32 copy of a gated nGPT's hidden matrices. Each ratio is to the linear step in the same
round. A linear step is mostly its polar factor's products; an option adds passes over memory, and calls where matrices
are small.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import core_count, wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import torch
from torch import nn

from benchmarks.measure import interleaved, prepare, ratio
from benchmarks.optimizer_step import hidden_matrices, simple_muon
from benchmarks.saved import FOLDER, save
from ngpt.errors import exit_code_of

LAYERS = {64: 2, 128: 3, 243: 3, 768: 1, 1024: 1}
"""Number of layers for each width"""

LINEAR = "linear"
OPTIONS: dict[str, dict[str, Any]] = {
    LINEAR: {},
    "geodesic lr": {"geodesic": "lr"},
    "geodesic lr-norm": {"geodesic": "lr-norm"},
    "tangent after": {"tangent": "after"},
    "tangent before": {"tangent": "before"},
    "tangent gradient": {"tangent": "gradient"},
    "transport project": {"momentum_transport": "project"},
    "transport parallel": {"momentum_transport": "parallel"},
    "transport rotate": {"momentum_transport": "rotate"},
    "match angle": {"match_step": "angle"},
    "normuon short-axis": {"normuon": "short-axis"},
    "normuon rows": {"normuon": "rows"},
    "cautious decay": {"cautious_wd": True, "weight_decay": 0.1},
}


def race(width: int, layers: int, *, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Race all options at one width, and return a row of results for each."""
    device = torch.device("cpu")
    weights, dims = hidden_matrices(width, layers, device)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(W.shape, generator=generator) for W in weights]
    steps: dict[str, Callable[[], object]] = {}
    for name, options in OPTIONS.items():
        parameters = [nn.Parameter(W.clone()) for W in weights]
        for parameter, G in zip(parameters, gradients, strict=True):
            parameter.grad = G
        steps[name] = simple_muon(dtype, **options)(parameters, dims).step
    seconds = interleaved(steps, repetitions=rounds, device=device, warm_up=2)
    return [
        {
            "width": width,
            "layers": layers,
            "option": name,
            "milliseconds": 1e3 * median(taken),
            "times_linear": asdict(ratio(taken, seconds[LINEAR])),
            "seconds": taken,
        }
        for name, taken in seconds.items()
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options with all defaults filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=list(LAYERS), help="widths D of the residual stream")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per option, at least 2")
    parser.add_argument("--threads", type=int, default=core_count(), help="CPU threads; default: one per core")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the polar products")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.steps < 2 or min(options.threads, *options.widths) < 1:
        parser.error("widths and threads must be positive, and --steps at least 2")
    return options


def main(arguments: list[str]) -> int:
    """Race at every width, print the ratios, and save all results."""
    options = parse(arguments)
    machine = prepare(torch.device("cpu"), options.threads)
    rows = []
    for width in options.widths:
        raced = race(width, LAYERS.get(width, 1), dtype=getattr(torch, options.dtype), rounds=options.steps)
        for row in raced:
            found = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_linear"])
            print(f"{width:5} {row['option']:20} {row['milliseconds']:9.2f} ms  {found}", flush=True)
        rows += raced
    flags = f"--widths {' '.join(map(str, options.widths))} --steps {options.steps} --threads {options.threads}"
    content = {
        "command": f"python benchmarks/step_options.py {flags} --dtype {options.dtype}",
        "median_of": options.steps,
        "dtype": options.dtype,
        "measured_on": machine,
        "rows": rows,
    }
    name = f"step_options_cpu_{options.dtype}_{options.threads}_thread{'s' * (options.threads > 1)}"
    save(str((options.json or FOLDER / name).resolve().with_suffix("")), content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
