"""Compare the Triton kernels with cuBLAS and torch, correctness first: `python benchmarks/kernels.py`.

The results of each kernel and of its alternative are compared with float64 on fresh random input by
|out - exact| / |exact|. Each timing covers ten calls in a row, replayed from a CUDA graph as in training, so that
launches cost nothing; each ratio is taken within a round. The floor is the time of half the products' operations, with
the diagonal, at the measured rate of large square products, or of moving each element once at the measured rate of a
large copy.

On a CPU the kernels run in Triton's interpreter on small inputs: this shows that the benchmark works and the kernels
are correct, and says nothing about their speed.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from benchmarks.measure import bandwidth, floor_seconds, interleaved, matmul_rate, prepare, ratio
from benchmarks.saved import FOLDER, save
from ngpt import kernels
from ngpt.errors import exit_code_of
from ngpt.kernels import twins
from ngpt.machine import core_count
from ngpt.training.environment import choose_device
from ngpt.training.step import capture

CALLS = {"cpu": 1, "cuda": 10}
"""Calls per timing"""

PRODUCTS = {
    "cpu": [(1, 40, 40), (2, 33, 70)],
    "cuda": [
        (44, 768, 768), (33, 768, 2048), (16, 1024, 1024), (1, 1024, 1024), (4, 2048, 2048), (1, 2048, 2048),
        (1, 2048, 8192), (1, 4096, 4096), (1, 8192, 8192),
    ],
}  # fmt: skip
"""Shapes (batch, rows, columns) of A in A A'; square ones also serve as A in b A + c A A. The first two on a GPU are
the hidden matrices of the `155m` preset."""

MATRICES = {"cpu": [(40, 24), (24, 40)], "cuda": [(50257, 768), (2048, 768), (768, 2048)]}
"""Weight shapes of the elementwise steps; vectors lie along the side of 768 (or 24)"""

ACTIVATIONS = {"cpu": (48, 24), "cuda": (32768, 768)}
"""Tokens and width of a residual step"""

BOUND = 1e-2
"""Largest error allowed, relative to the result's norm: a few bfloat16 roundings, as all results here are rounded to
bfloat16 or computed from it"""

Run = Callable[..., tuple[Tensor, ...]]
"""A function that takes a case's tensors, some of which it may write to, and returns its results"""


@dataclass(frozen=True)
class Case:
    """One kernel on one input."""

    kernel: str
    tensors: tuple[Tensor, ...]
    contenders: dict[str, Run]
    """the first is the alternative that the others are compared with"""
    exact: Run
    """returns the results in float64, given tensors in float64"""
    flops: float
    bytes: float
    tiling: str = ""
    """label of the tiling that a product of this size has in training"""
    in_training: str = "kernel"
    """the contender that training uses"""

    def error(self, name: str) -> float:
        """Return the largest |result - exact| / |exact| over the results of one call on copies."""
        got = self.contenders[name](*(x.clone() for x in self.tensors))
        want = self.exact(*(x.double() for x in self.tensors))
        return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(got, want, strict=True))


def product_cases(shape: tuple[int, int, int], device: torch.device, *, tune: bool) -> list[Case]:
    """Return cases for A A' and b A + c A A in bfloat16, with every candidate tiling if `tune`."""
    from ngpt.kernels import symmetric

    batch, rows, depth = shape
    A = torch.randn(shape, device=device).bfloat16()
    S = torch.randn(batch, rows, rows, device=device) / rows**0.5
    S = (torch.tril(S) + torch.tril(S, -1).mT).bfloat16()
    alternative = "cuBLAS" if device.type == "cuda" else "torch"
    tilings = {"kernel": None} | ({tiling.label(): tiling for tiling in symmetric.CANDIDATES} if tune else {})
    b, c = -4.775, 2.0315

    def xxt(place: Any, **options: Any) -> Run:
        return lambda A: (place.xxt(A, **options),)

    def ba_plus_caa(place: Any, **options: Any) -> Run:
        return lambda A: (place.ba_plus_cAA(A, b, c, check=False, **options),)

    used, room = "kernel" if kernels.worth_a_kernel(rows, batch) else alternative, kernels.room_for_depth(device)
    triangle = batch * rows * (rows + 1)
    traffic = 2 * batch * rows * (depth + rows)
    found = [("xxt", A, xxt, depth)] + ([("ba_plus_cAA", S, ba_plus_caa, rows)] if rows == depth else [])
    return [
        Case(
            kernel, (matrices,),
            {alternative: of(twins)} | {name: of(symmetric, tiling=tiling) for name, tiling in tilings.items()},
            of(twins), triangle * inner, traffic,
            symmetric.best_tiling(rows, A.dtype, deep=room and kernel == "ba_plus_cAA").label(), used,
        )
        for kernel, matrices, of, inner in found
    ]  # fmt: skip


def both(run: Callable[..., tuple[Tensor, ...]]) -> tuple[dict[str, Run], Run]:
    """Return `run` with the twins (the alternative) and with the kernels, and with the twins as the exact reference."""
    from ngpt.kernels import fused

    return {"torch": partial(run, twins), "kernel": partial(run, fused)}, partial(run, twins)


def step_cases(shape: tuple[int, int], device: torch.device) -> list[Case]:
    """Return cases for projection, geodesic step and momentum on a float32 matrix; direction and result in bfloat16.

    They are timed in place on the same tensors, which changes the values but not the time.
    """
    dim, numbers = shape.index(min(shape)), math.prod(shape)
    W, G, M = (torch.randn(shape, device=device) / min(shape) ** 0.5 for _ in range(3))
    O, X = torch.randn(shape, device=device).bfloat16() / max(shape) ** 0.5, torch.empty_like(W, dtype=torch.bfloat16)
    lr, mu = torch.full((), 0.02, device=device), torch.full((), 0.95, device=device)

    def project(place: Any, W: Tensor) -> tuple[Tensor, ...]:
        return (place.project_(W, dim=dim),)

    def turn(place: Any, W: Tensor, O: Tensor, lr: Tensor) -> tuple[Tensor, ...]:
        return (place.geodesic_move_(W, O, lr, 1.5, fixed_angle=False, dim=dim),)

    def momentum(place: Any, M: Tensor, G: Tensor, mu: Tensor, X: Tensor) -> tuple[Tensor, ...]:
        return M, X, place.momentum_step_(M, G, mu, nesterov=True, out=X)

    unit = twins.project_(W.clone(), dim=dim)
    vectors = "rows" if dim == 1 else "columns"
    return [
        Case(f"project_, {vectors}", (W,), *both(project), 0, 8 * numbers),
        Case(f"geodesic_move_, {vectors}", (unit, O, lr), *both(turn), 0, 10 * numbers),
        Case("momentum_step_", (M, G, mu, X), *both(momentum), 0, 14 * numbers),
    ]


def residual_cases(tokens: int, width: int, device: torch.device) -> list[Case]:
    """Return cases for a residual step, with and without gradients; as in a model, h is float32 and f bfloat16."""
    h = twins.unit(torch.randn(tokens, width, device=device))
    f, a = torch.randn(tokens, width, device=device).bfloat16(), torch.rand(width, device=device)
    g = torch.randn(tokens, width, device=device)

    def forward(place: Any, h: Tensor, f: Tensor, a: Tensor) -> tuple[Tensor, ...]:
        return (place.residual_step(h, f, a),)

    def there_and_back(place: Any, h: Tensor, f: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in (h, f, a)]
        y = place.residual_step(*inputs)
        return (y.detach(), *torch.autograd.grad(y, inputs, g))

    numbers = tokens * width
    return [
        Case("residual_step", (h, f, a), *both(forward), 0, 10 * numbers),
        Case("residual_step and its gradients", (h, f, a, g), *both(there_and_back), 0, 26 * numbers),
    ]


def measure(case: Case, *, rounds: int, device: torch.device, rate: float, bytes_per_second: float) -> dict[str, Any]:
    """Check the errors of a case, time it, and return a row of results."""
    errors = {name: case.error(name) for name in case.contenders}
    wrong = {name: error for name, error in errors.items() if not error <= BOUND}
    assert not wrong, f"{case.kernel} of {tuple(case.tensors[0].shape)} is wrong: {wrong}"
    calls = CALLS[device.type]

    def repeated(run: Run) -> Callable[[], object]:
        def all_calls() -> None:
            for _ in range(calls):
                run(*case.tensors)

        return all_calls if device.type == "cpu" else capture(all_calls, torch.cuda.graph_pool_handle())

    runs = {name: repeated(run) for name, run in case.contenders.items()}
    seconds = interleaved(runs, repetitions=rounds, device=device, warm_up=2)
    first = next(iter(case.contenders))
    floor = floor_seconds(case.flops, rate, case.bytes, bytes_per_second)
    times = {name: [taken / calls for taken in values] for name, values in seconds.items()}
    return {
        "kernel": case.kernel,
        "shape": list(case.tensors[0].shape),
        "alternative": first,
        "tiling": case.tiling,
        "in_training": case.in_training,
        "microseconds": {name: 1e6 * median(taken) for name, taken in times.items()},
        "times_faster": {name: asdict(ratio(times[first], taken)) for name, taken in times.items()},
        "errors": errors,
        "floor_seconds": floor,
        "share_of_floor": {name: floor / median(taken) for name, taken in times.items()},
    }


def print_row(row: dict[str, Any]) -> None:
    """Print one case, a line for each contender except the alternative."""
    first, shape = row["alternative"], "x".join(map(str, row["shape"]))
    for name, microseconds in row["microseconds"].items():
        if name != first:
            faster = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_faster"][name])
            shares, errors = row["share_of_floor"], row["errors"]
            print(
                f"{row['kernel']:30} {shape:13} {name:8} {microseconds:9.1f} us {faster:>18} x {first}  "
                f"floor {shares[name]:4.0%} ({first} {shares[first]:4.0%})  error {errors[name]:.1e} "
                f"({errors[first]:.1e})"
            )


def main(arguments: list[str]) -> int:
    """Check and time every kernel, print its lines, and save all results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds per case")
    parser.add_argument("--tune", action="store_true", help="time every tiling of the products as well")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    device = choose_device(options.device)
    if device.type == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before the kernels are imported

    machine = prepare(device, core_count())
    rate, bytes_per_second = matmul_rate(torch.bfloat16, device, threads=core_count()), bandwidth(device)
    print(f"{machine['device']}: {rate / 1e12:,.2f} TFLOP/s in bfloat16, {bytes_per_second / 1e9:,.0f} GB/s")
    rows = []
    for cases in (
        *(partial(product_cases, shape, device, tune=options.tune) for shape in PRODUCTS[device.type]),
        *(partial(step_cases, shape, device) for shape in MATRICES[device.type]),
        partial(residual_cases, *ACTIVATIONS[device.type], device),
    ):  # one at a time, so that only one is in memory
        for case in cases():
            rows.append(
                measure(case, rounds=options.rounds, device=device, rate=rate, bytes_per_second=bytes_per_second)
            )
            print_row(rows[-1])
    content = {
        "command": f"python benchmarks/kernels.py --rounds {options.rounds}" + " --tune" * options.tune,
        "rounds": options.rounds,
        "measured_on": machine,
        "flops_per_second": rate,
        "bytes_per_second": bytes_per_second,
        "interpreted": device.type == "cpu",
        "rows": rows,
    }
    save(str((options.json or FOLDER / f"kernels_{device.type}.json").resolve().with_suffix("")), content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
