"""One optimizer step against peers: `python benchmarks/optimizer_step.py`.

Every contender updates its own float32 copy of a gated nGPT's hidden matrices with the same random gradients. Only
`step()` is timed; gradients are restored before each step, as a backward pass leaves them, because some optimizers
write to them. Each ratio is to torch.optim.Muon in the same round. A median far above the fastest step means that other
processes used the cores; two threads that wait for each other suffer most from that.

The floor is the longer of two times: the iterations' products, 2 min^2 (2 max + min) FLOP per matrix and iteration, at
the rate of large square products in the same precision and on as many threads; and the memory traffic (gradient, state
and weight read, state and weight written) at the rate of a large copy. It exploits neither the symmetry of X X' nor
caches, so a share above 100% is possible.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import core_count, wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import torch
from torch import Tensor, nn

from benchmarks.measure import bandwidth, floor_seconds, interleaved, matmul_rate, prepare, ratio
from benchmarks.saved import FOLDER, save
from ngpt.config import ModelConfig
from ngpt.cost import iteration_operations
from ngpt.errors import exit_code_of
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.muon import SimpleMuon
from ngpt.training.ahead import missing_compiler
from ngpt.training.environment import choose_device
from ngpt.training.step import capture

WIDTHS = [243, 768, 1024]

LAYERS = {"cpu": {243: 3, 768: 2, 1024: 1}, "cuda": {243: 3, 768: 11, 1024: 11}}
"""Default number of layers for each width; 1 for any other width"""

ITERATIONS = 5

LR, MOMENTUM = 0.01, 0.95

MUON: dict[str, Any] = {"lr": LR, "momentum": MOMENTUM, "nesterov": True, "weight_decay": 0.0}

ROUNDS = 20
"""Timed steps per contender; results in benchmarks/results need at least this many"""

AGREEMENT = 0.05
"""Largest relative difference allowed between the first step of the same mathematics and that of torch.optim.Muon.

On a CPU they are equal. A GPU may sum in another order and round the norm elsewhere, which bfloat16 amplifies along
small singular vectors."""


class Steps(Protocol):
    """The interface that the race times."""

    def step(self) -> object:
        """Update the parameters from their gradients."""


Build = Callable[[list[nn.Parameter], list[int]], Steps]
"""Builds an optimizer from parameters and the axes of their unit vectors"""


@dataclass(frozen=True)
class Contender:
    """An optimizer, what it computes, and the terms of its floor."""

    name: str
    mathematics: str
    build: Build
    dtype: torch.dtype = torch.bfloat16
    """precision of the iterations"""
    iterations: int = ITERATIONS
    numbers_moved: int = 5
    """float32 elements moved per weight: gradient, momentum and weight read, momentum and weight written"""
    is_torchs: bool = False
    """whether it computes the same step as torch.optim.Muon"""
    package: str = "torch"
    """the package it needs"""
    compiles: bool = False
    """whether it needs torch.compile"""
    on_gpu_only: bool = False


def simple_muon(dtype: torch.dtype, **options: Any) -> Build:
    """Return a builder of SimpleMuon as in a run, with one group per axis of unit vectors."""

    def build(parameters: list[nn.Parameter], dims: list[int]) -> SimpleMuon:
        of_dim = {dim: [p for p, its in zip(parameters, dims, strict=True) if its == dim] for dim in (-1, 0)}
        groups = [{"params": some, "sphere_dim": dim} for dim, some in of_dim.items()]
        return SimpleMuon(groups, ns_steps=ITERATIONS, polar_dtype=dtype, **{**MUON, **options})

    return build


class Graphed:
    """An optimizer whose steps after the first replay a CUDA graph, as in training."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.replay: Callable[[], object] | None = None

    def step(self) -> None:
        """Run the first step eagerly, to allocate state and compile kernels, then capture it; replay all later ones."""
        if self.replay is not None:
            self.replay()
            return
        self.optimizer.step()
        self.replay = capture(self.optimizer.step, torch.cuda.graph_pool_handle())


def graphed_muon(parameters: list[nn.Parameter], dims: list[int]) -> Graphed:
    """Return SimpleMuon in bfloat16 with learning rate and momentum in tensors, for a CUDA graph."""
    optimizer = simple_muon(torch.bfloat16)(parameters, dims)
    assert isinstance(optimizer, SimpleMuon)
    for group in optimizer.param_groups:
        group |= {name: torch.full((), group[name], device=parameters[0].device) for name in ("lr", "momentum")}
    return Graphed(optimizer)


def peer_muon(module: str, options: dict[str, Any], **of_group: Any) -> Build:
    """Return a builder of the class Muon of `module`, which is imported only when building."""

    def build(parameters: list[nn.Parameter], dims: list[int]) -> torch.optim.Optimizer:
        kind: type[torch.optim.Optimizer] = importlib.import_module(module).Muon
        return kind([{"params": parameters, **of_group}], **options)

    return build


QUINTIC = "5 Newton-Schulz iterations (3.4445, -4.7750, 2.0315)"

REFERENCE = Contender(
    name="torch.optim.Muon",
    mathematics=f"bfloat16, {QUINTIC}, matrix by matrix",
    build=lambda parameters, dims: torch.optim.Muon(parameters, **MUON, ns_steps=ITERATIONS),
    is_torchs=True,
)
"""The contender that all ratios refer to"""

CONTENDERS = (
    REFERENCE,
    Contender(
        name="SimpleMuon",
        mathematics=f"bfloat16, {QUINTIC}, matrices of one shape as a batch",
        build=simple_muon(torch.bfloat16),
        is_torchs=True,
    ),
    Contender(
        name="SimpleMuon, CUDA graph",
        mathematics=f"bfloat16, {QUINTIC}, matrices of one shape as a batch",
        build=graphed_muon,
        is_torchs=True,
        on_gpu_only=True,
    ),
    Contender(
        name="SimpleMuon, float32",
        mathematics=f"float32, {QUINTIC}, matrices of one shape as a batch",
        build=simple_muon(torch.float32),
        dtype=torch.float32,
    ),
    Contender(
        name="SimpleMuon, Polar Express",
        mathematics="bfloat16, 5 iterations of Polar Express (arXiv 2505.16932), matrices of one shape as a batch",
        build=simple_muon(torch.bfloat16, orthogonalizer="polar-express"),
    ),
    Contender(
        name="SimpleMuon, geodesic",
        mathematics=f"bfloat16, {QUINTIC}, then each unit vector rotates by lr |u| in float32",
        build=simple_muon(torch.bfloat16, geodesic="lr-norm"),
    ),
    Contender(
        name="torch.optim.AdamW, fused",
        mathematics="float32, no matrix products, two moments",
        build=lambda parameters, dims: torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0, fused=True),
        dtype=torch.float32,
        iterations=0,
        numbers_moved=7,
    ),
)

PEERS: tuple[Contender, ...] = (
    Contender(
        name="pytorch_optimizer.Muon",
        mathematics=f"bfloat16, {QUINTIC}, matrices of one shape as a batch",
        build=peer_muon("pytorch_optimizer", {**MUON, "ns_steps": ITERATIONS}, use_muon=True),
        is_torchs=True,
        package="pytorch_optimizer",
    ),
    Contender(
        name="heavyball.Muon",
        mathematics="bfloat16 by random rounding, 5 Newton-Schulz iterations with You's coefficients, of G + M, "
        "matrix by matrix, compiled (max-autotune)",
        build=peer_muon("heavyball", {"lr": LR, "betas": (MOMENTUM, 0.99), "nesterov": True, "weight_decay": 0.0}),
        package="heavyball",
        compiles=True,
    ),
)
"""Contenders from packages that this project does not require"""


def why_left_out(contender: Contender) -> str | None:
    """Return why a contender cannot run here, or None if it can."""
    if importlib.util.find_spec(contender.package) is None:
        return f"{contender.package} is not installed"
    compiler = missing_compiler()
    if contender.compiles and compiler is not None:
        return f"torch.compile finds no C++ compiler {compiler}"
    return None


def hidden_matrices(width: int, layers: int, device: torch.device) -> tuple[list[Tensor], list[int]]:
    """Return a gated nGPT's hidden matrices and their axes of unit vectors; per layer: 4 D x D, 2 F x D, 1 D x F."""
    model = build_model(ModelConfig(n_embd=width, n_layer=layers, n_head=1), vocab_size=1, seed=0)
    weights, dims = [], []
    for parameter, spec in zip(model.parameters(), parameter_specs(model).values(), strict=True):
        if spec.role is Role.HIDDEN and spec.sphere_dim is not None:
            weights.append(parameter.detach().to(device))
            dims.append(spec.sphere_dim)
    return weights, dims


def difference(moved: list[nn.Parameter], reference: list[nn.Parameter], start: list[Tensor]) -> float:
    """Return the distance between two steps from `start`, over all matrices, relative to the reference step."""

    def length(ends: list[nn.Parameter], begins: list[Tensor]) -> float:
        return math.sqrt(sum((W - V).double().square().sum().item() for W, V in zip(ends, begins, strict=True)))

    with torch.no_grad():
        return length(moved, [W.detach() for W in reference]) / length(reference, start)


@dataclass(frozen=True)
class Rates:
    """The machine's measured rates: matrix products by precision, and copies."""

    flops_per_second: dict[str, float]
    bytes_per_second: float


def race(
    field: list[Contender], width: int, layers: int, *, rounds: int, device: torch.device, rates: Rates
) -> list[dict[str, Any]]:
    """Race all contenders at one width, and return a row of results for each."""
    weights, dims = hidden_matrices(width, layers, device)
    generator = torch.Generator(device).manual_seed(1)
    gradients = [torch.randn(W.shape, generator=generator, device=device) for W in weights]
    copies = {contender.name: [nn.Parameter(W.clone()) for W in weights] for contender in field}
    optimizers = {contender.name: contender.build(copies[contender.name], dims) for contender in field}

    def fresh_gradients(name: str) -> None:
        for W, G in zip(copies[name], gradients, strict=True):
            if W.grad is None:  # some optimizers drop their gradients
                W.grad = G.clone()
            else:  # a CUDA graph reads it at this address
                W.grad.copy_(G)

    torch.compiler.reset()  # a step is compiled for the shapes of one width; torch gives up at the ninth
    for name, optimizer in optimizers.items():
        fresh_gradients(name)
        optimizer.step()
    apart = {name: difference(moved, copies[REFERENCE.name], weights) for name, moved in copies.items()}
    wrong = [contender.name for contender in field if contender.is_torchs and apart[contender.name] > AGREEMENT]
    assert not wrong, f"not torch.optim.Muon's step at width {width}: {', '.join(wrong)}, by {apart}"

    steps: dict[str, Callable[[], object]] = {name: optimizer.step for name, optimizer in optimizers.items()}
    seconds = interleaved(steps, repetitions=rounds, device=device, before=fresh_gradients)
    numbers, rows = sum(W.numel() for W in weights), []
    for contender in field:
        work = contender.iterations * iteration_operations(W.shape for W in weights)
        traffic = 4 * contender.numbers_moved * numbers
        dtype, taken = str(contender.dtype).removeprefix("torch."), seconds[contender.name]
        floor = floor_seconds(work, rates.flops_per_second[dtype], traffic, rates.bytes_per_second)
        rows.append(
            {
                "width": width,
                "layers": layers,
                "contender": contender.name,
                "dtype": dtype,
                "milliseconds": 1e3 * median(taken),
                "fastest_milliseconds": 1e3 * min(taken),
                "times_faster": asdict(ratio(seconds[REFERENCE.name], taken)),
                "floor_seconds": floor,
                "share_of_floor": floor / median(taken),
                "first_step_apart": apart[contender.name],
                "weights": numbers,
                "flops": work,
                "bytes": traffic,
                "seconds": taken,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one width as a table."""
    first = rows[0]
    print(f"\n{first['width']} wide, {first['layers']} layers, {first['weights'] / 1e6:.1f}M weights")
    print(f"{'contender':26} {'ms':>8} {'fastest':>8}  {'x faster, 95% interval':22} {'of the floor':>12}  differs by")
    for row in rows:
        faster = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_faster"])
        times = f"{row['milliseconds']:8.2f} {row['fastest_milliseconds']:8.2f}"
        shares = f"{row['share_of_floor']:12.0%}  {row['first_step_apart']:10.2%}"
        print(f"{row['contender']:26} {times}  {faster:22} {shares}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options with all defaults filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="widths D of the residual stream")
    parser.add_argument("--steps", type=int, default=ROUNDS, help="timed steps per contender")
    parser.add_argument("--threads", type=int, default=core_count(), help="CPU threads; default: one per core")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    parser.add_argument("--layers", type=int, nargs="+", help="layers for each of --widths")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    options.device = choose_device(options.device).type
    defaults = LAYERS[options.device]
    options.layers = options.layers or [defaults.get(width, 1) for width in options.widths]
    if len(options.layers) != len(options.widths):
        parser.error("--layers needs one number per width in --widths")
    if min(options.steps, options.threads, *options.widths, *options.layers) < 1 or options.steps < 2:
        parser.error("widths, layers and threads must be positive, and --steps at least 2")
    if options.json is None and options.steps < ROUNDS:
        parser.error(f"a result in benchmarks/results needs {ROUNDS} steps; --json PATH writes elsewhere")
    threads = f"_{options.threads}_thread{'s' * (options.threads > 1)}" * (options.device == "cpu")
    options.json = options.json or FOLDER / f"optimizer_step_{options.device}{threads}.json"
    return options


def main(arguments: list[str]) -> int:
    """Race at every width, print the tables, and save all results."""
    options = parse(arguments)
    device = torch.device(options.device)
    left_out = {peer.name: why for peer in PEERS if (why := why_left_out(peer)) is not None}
    field = [contender for contender in CONTENDERS if device.type == "cuda" or not contender.on_gpu_only]
    field = [*field, *(peer for peer in PEERS if peer.name not in left_out)]
    for contender in field:
        print(f"{contender.name:26} {contender.mathematics}")
    for name, why in left_out.items():
        print(f"{name:26} left out: {why}")

    machine = prepare(device, options.threads)
    dtypes = {str(contender.dtype).removeprefix("torch."): contender.dtype for contender in field}
    rates = Rates(
        {name: matmul_rate(dtype, device, threads=options.threads) for name, dtype in dtypes.items()},
        bandwidth(device),
    )
    print(f"\n{machine['device']}, {options.threads} threads, TF32 off")
    for name, rate in rates.flops_per_second.items():
        slower = rates.flops_per_second.get("float32", rate) / rate
        emulated = f": emulated on this processor, {slower:.1f}x as slow as float32" if slower > 2 else ""
        print(f"{rate / 1e9:,.0f} GFLOP/s in {name}{emulated}")
    print(f"{rates.bytes_per_second / 1e9:,.1f} GB/s")

    rows = []
    for width, layers in zip(options.widths, options.layers, strict=True):
        iteration = iteration_operations(W.shape for W in hidden_matrices(width, layers, device)[0])
        seconds = (options.steps + 2) * sum(
            contender.iterations * iteration
            / rates.flops_per_second[str(contender.dtype).removeprefix("torch.")]
            for contender in field
        )  # fmt: skip
        print(f"{width} wide: the products take at least {seconds:.1f} s", file=sys.stderr)
        raced = race(field, width, layers, rounds=options.steps, device=device, rates=rates)
        print_table(raced)
        rows += raced
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    values = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    flags = [word for name, these in values.items() for word in (f"--{name}", *map(str, these))]
    flags += ["--json", "PATH"] * (options.steps < ROUNDS)  # which the command then needs
    content = {
        "command": " ".join(["python benchmarks/optimizer_step.py", *flags]),
        "options": settings,
        "measured_on": machine,
        "rates": asdict(rates),
        "reference": REFERENCE.name,
        "mathematics": {contender.name: contender.mathematics for contender in field},
        "packages": {c.package: importlib.metadata.version(c.package) for c in field if c.package != "torch"},
        "left_out": left_out,
        "rows": rows,
    }
    save(str(options.json.resolve().with_suffix("")), content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
