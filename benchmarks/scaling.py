"""Several ranks: what each sends and holds, and how long a step would take, from the measured step of one device.

    python benchmarks/scaling.py --preset 155m --batch-size 8

measures the step, and `python -m experiments.regenerate_docs` builds the tables of `docs/scaling.md` from it. Numbers
of bytes are formulas; tests count the same numbers in real runs (tests/training/test_ranks.py).
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import torch

from benchmarks import measure
from benchmarks.saved import FOLDER, save
from benchmarks.training_throughput import PARTS, Arrangement, whole_periods
from ngpt.config import RunConfig
from ngpt.data.tokenizers import GPT2_VOCAB
from ngpt.files import read_json
from ngpt.model import build_model
from ngpt.model.roles import ParameterSpec, Role, parameter_specs
from ngpt.optim.build import muon_settings
from ngpt.optim.sharded import polar_work
from ngpt.optim.steps import may_round_input, polar_dtype, reading_weights, refined_dtype, second_moment_shape
from ngpt.presets import resolve
from ngpt.training.sharding import owners

WORD = 4
"""Bytes per number of weights, gradients and optimizer state, all float32."""

Parallel = Literal["zero1", "fsdp"]


@dataclass(frozen=True)
class Parameters:
    """Shapes and roles of a model's parameters, and the options of Muon for its hidden matrices."""

    shapes: Mapping[str, tuple[int, ...]]
    specs: Mapping[str, ParameterSpec]
    settings: Mapping[str, Any]
    """options of SimpleMuon"""

    @classmethod
    def of(cls, config: RunConfig, vocab_size: int) -> "Parameters":
        """Return those of the model that `config` describes, without allocating it."""
        with torch.device("meta"):
            model = build_model(config.model, vocab_size, seed=0)
        settings = muon_settings(config.optim) | {"polar_dtype": config.optim.polar_dtype}
        return cls({n: tuple(p.shape) for n, p in model.named_parameters()}, parameter_specs(model), settings)

    def elements(self, *, ndim: int | None = None, role: Role | None = None, inside: bool | None = None) -> int:
        """Count the entries of all parameters, or of those with `ndim` dimensions, a role, inside or outside blocks."""
        total = 0
        for name, shape in self.shapes.items():
            chosen = ndim is None or (len(shape) == 2) == (ndim == 2)
            chosen &= role is None or self.specs[name].role == role
            chosen &= inside is None or name.startswith("blocks.") == inside
            total += torch.Size(shape).numel() if chosen else 0
        return total

    def padded(self, count: int, *, inside: bool) -> int:
        """Count the entries of matrices inside or outside blocks, padded as FSDP2 does to make shards equally long."""
        found = [self.shapes[n] for n in self.shapes if len(self.shapes[n]) == 2 and n.startswith("blocks.") == inside]
        return sum(math.ceil(m / count) * count * n for m, n in found)

    def work_share(self, count: int) -> float:
        """Return the largest share of the orthogonalization that falls to one of `count` ranks."""
        owner, work = owners(self.shapes, self.specs, count), [0] * count
        for name, shape in self.shapes.items():
            if self.specs[name].role == Role.HIDDEN:
                work[owner[name]] += polar_work(shape)
        return max(work) / sum(work)

    def owned(self, count: int) -> list[tuple[int, int]]:
        """Count, for each rank, the entries of the hidden matrices and of the other matrices that it owns."""
        owner, found = owners(self.shapes, self.specs, count), [[0, 0] for _ in range(count)]
        for name, shape in self.shapes.items():
            if len(shape) == 2:
                found[owner[name]][self.specs[name].role != Role.HIDDEN] += shape[0] * shape[1]
        return [(hidden, other) for hidden, other in found]


def step_bytes(of: Parameters) -> tuple[float, float]:
    """Return the bytes sent to the owners of sharded matrices in a step of SimpleMuon, and the bytes sent back.

    For every hidden matrix (m, n): the m n entries to be orthogonalized go to its owner and the m n entries of the
    update come back, both in the orthogonalizer's precision where the options allow it. Where an option needs the
    weights, they go along and come back instead of the update. NorMuon's second moments travel both ways, as does the
    momentum if it is transported.
    """
    H, settings = of.elements(role=Role.HIDDEN), of.settings
    there = (polar_dtype(settings).itemsize if may_round_input(settings) else WORD) * H
    back = refined_dtype(settings).itemsize * H
    if reading_weights(settings):
        there, back = there + WORD * H, WORD * H
    both = WORD * H * (settings["momentum_transport"] != "none")
    if settings["normuon"] is not None:
        hidden = [torch.Size(of.shapes[name]) for name, spec in of.specs.items() if spec.role == Role.HIDDEN]
        both += WORD * sum(max(second_moment_shape(shape, settings["normuon"])) for shape in hidden)
    return there + both, back + both


def projection_bytes(of: Parameters, count: int) -> float:
    """Return the bytes that a rank sends to project sharded weights: lengths of vectors that are split over ranks."""
    cut = [name for name, spec in of.specs.items() if spec.sphere_dim == 0]
    return 2 * WORD * sum(of.shapes[name][1] for name in cut) * (count - 1) / count


def payload_bytes(of: Parameters, count: int, parallel: Parallel) -> dict[str, float]:
    """Return the bytes that a rank sends in a step without evaluation, as the mean over `count` ranks, by purpose.

    With P entries in matrices, p in vectors and scalars, t trained parameters and N ranks, at 4 bytes each. zero1:
    P (N-1)/N gradients to owners and as many weights back. fsdp, with rows padded to a multiple of N: P (N-1)/N weights
    before the forward pass, those of the blocks again before the backward pass, P (N-1)/N gradients to shards, and
    (N-1)/N^2 of `step_bytes`. Both: 2 (p + t + 1) (N-1)/N for all-reduced sums. A projection under fsdp is not included
    (`projection_bytes`).
    """
    small, away = of.elements(ndim=1), (count - 1) / count
    trained = sum(spec.role != Role.FROZEN for spec in of.specs.values())
    both = {"vectors, norms and loss": 2 * WORD * (small + trained + 1) * away}
    if parallel == "zero1":
        P = of.elements(ndim=2)
        return {"gradients to owners": WORD * P * away, "weights from owners": WORD * P * away, **both}
    inside, outside = (of.padded(count, inside=place) for place in (True, False))
    there, back = step_bytes(of)
    return {
        "weights for the passes": WORD * (2 * inside + outside) * away,
        "gradients onto shards": WORD * (inside + outside) * away,
        "input of the orthogonalizer, to owners": there * away / count,
        "updates, to shards": back * away / count,
        **both,
    }


def memory_bytes(of: Parameters, count: int, parallel: Parallel) -> dict[str, float]:
    """Return the bytes on the fullest of `count` ranks, by purpose: one state per entry for Muon, two for AdamW.

    Activations, AdamW's step counters, NorMuon's second moments and temporary memory are not included.
    """
    P, H, small = of.elements(ndim=2), of.elements(role=Role.HIDDEN), of.elements(ndim=1)
    if parallel == "zero1" or count == 1:
        fullest = max(hidden + 2 * other for hidden, other in of.owned(count)) + 2 * small
        return {"weights and gradients": 2 * WORD * (P + small), "optimizer state": WORD * fullest}
    blocks = len({name.split(".")[1] for name in of.shapes if name.startswith("blocks.")})
    together = of.elements(ndim=2, inside=True) / blocks + of.elements(ndim=2, inside=False)
    return {
        "weights and gradients, sharded": 2 * WORD * (P / count + small),
        "optimizer state, sharded": WORD * ((H + 2 * (P - H)) / count + 2 * small),
        "gathered temporarily: a block and everything outside blocks": 2 * WORD * together,
    }


@dataclass(frozen=True)
class Network:
    """Assumptions about the machines: bytes per second that a rank sends, inside a machine and between machines."""

    name: str
    ranks_a_machine: int
    inside: float
    between: float

    def bytes_per_second(self, count: int) -> float:
        """Return the bytes per second of a rank among `count` ranks, limited by the slowest link."""
        return self.inside if count <= self.ranks_a_machine else self.between


NETWORKS = {
    "cuda": Network("8 GPUs per machine, 450 GB/s inside, 50 GB/s per GPU between machines", 8, 450e9, 50e9),
    "cpu": Network("one rank per machine, 1.25 GB/s between machines", 1, 1.25e9, 1.25e9),
}

BACKWARD = 2 / 3
"""Share of the backward pass in the time of both passes; gradients travel during it."""


def simulated(
    of: Parameters, seconds: Mapping[str, float], network: Network, count: int, parallel: Parallel
) -> dict[str, float]:
    """Return the seconds of a step's parts on `count` ranks with a constant number of tokens per rank (weak scaling).

    seconds: of gradients, move and projection on one device. Move and projection shrink in proportion to the largest
    share of the orthogonalization. Under zero1, gradients travel during the backward pass; under fsdp, weights and
    gradients travel during both passes. The exception is the embedding, whose weights are needed before anything is
    computed and whose gradient comes last. It is waited for, and so are any excess of the rest and everything that is
    sent within the step. No latency, no stragglers.
    """
    speed, away = network.bytes_per_second(count), (count - 1) / count
    sent = payload_bytes(of, count, parallel)
    if parallel == "zero1":
        passes, apart = sent.pop("gradients to owners"), WORD * of.elements(role=Role.EMBEDDING) * away
        meanwhile = BACKWARD * seconds["gradients"]
    else:
        passes = sent.pop("weights for the passes") + sent.pop("gradients onto shards")
        apart, meanwhile = 2 * WORD * of.elements(role=Role.EMBEDDING) * away, seconds["gradients"]
    return {
        "passes": seconds["gradients"],
        "waiting in the passes": apart / speed + max(0.0, (passes - apart) / speed - meanwhile),
        "optimizers": of.work_share(count) * (seconds["move"] + seconds["projection"]),
        "waiting in the step": sum(sent.values()) / speed,
    }


# --- tables ----------------------------------------------------------------------------------------------------------


def exchange_table(counts: tuple[int, ...] = (2, 8, 64, 512)) -> str:
    """Return the table of what a rank of `155m` sends in a step."""
    of = Parameters.of(resolve("155m"), GPT2_VOCAB)
    rows = ["| what a rank sends in a step, MB | " + " | ".join(f"{n} ranks" for n in counts) + " |"]
    rows.append("|---" * (len(counts) + 1) + "|")
    for parallel in ("zero1", "fsdp"):
        found = [payload_bytes(of, n, parallel) for n in counts]  # type: ignore[arg-type]
        for what in found[0]:
            rows.append(f"| {parallel}: {what} | " + " | ".join(f"{one[what] / 1e6:,.1f}" for one in found) + " |")
        rows.append(f"| **{parallel}** | " + " | ".join(f"**{sum(one.values()) / 1e6:,.0f}**" for one in found) + " |")
    return "\n".join(rows) + "\n"


def memory_table(counts: tuple[int, ...] = (1, 2, 8, 64)) -> str:
    """Return the table of what the fullest rank of `155m` holds."""
    of = Parameters.of(resolve("155m"), GPT2_VOCAB)
    rows = ["| what the fullest rank holds, MB | " + " | ".join(f"{n} rank{'s' * (n > 1)}" for n in counts) + " |"]
    rows.append("|---" * (len(counts) + 1) + "|")
    for parallel in ("zero1", "fsdp"):
        found = [memory_bytes(of, n, parallel) for n in counts]  # type: ignore[arg-type]
        for what in found[-1]:
            cells = (f"{one[what] / 1e6:,.1f}" if what in one else "–" for one in found)
            rows.append(f"| {parallel}: {what} | " + " | ".join(cells) + " |")
        rows.append(f"| **{parallel}** | " + " | ".join(f"**{sum(one.values()) / 1e6:,.0f}**" for one in found) + " |")
    return "\n".join(rows) + "\n"


def simulation_tables() -> str:
    """Return tables of a step's parts by number of ranks, from measured steps: of this benchmark, and on a GPU."""
    tables = []
    for path in sorted(FOLDER.glob("scaling_*.json")):
        results = read_json(path)
        where = f"measured on {results['measured_on']['device']} by `{results['command']}`"
        from_step = f"From a step of {results['tokens_a_step']:,} tokens {where}"
        tables.append(_simulation(from_step, results["preset"], results["seconds"], NETWORKS[results["device"]]))
    on_gpu = FOLDER / "training_throughput_cuda.json"
    if on_gpu.exists():
        results = read_json(on_gpu)
        row = results["rows"][0]
        parts = {part: share * row["milliseconds"] / 1e3 for part, share in row["share_of_time"].items()}
        where = f"measured on {results['measured_on']['device']} by `{results['command']}`"
        from_step = f"From a step of {row['tokens_a_step']:,} tokens ({row['arrangement']}) {where}"
        tables.append(_simulation(from_step, "155m", parts, NETWORKS["cuda"]))
    return "\n\n".join(tables) + "\n"


def _simulation(from_step: str, preset: str, seconds: Mapping[str, float], network: Network) -> str:
    counts = (1, 8, 64, 512)
    of = Parameters.of(resolve(preset), GPT2_VOCAB)
    alone = sum(simulated(of, seconds, network, 1, "zero1").values())
    lines = [
        f"{from_step}, assuming {network.name}. Times are relative to a step on one rank.",
        "",
        "| part | " + " | ".join(f"{n} rank{'s' * (n > 1)}" for n in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for parallel in ("zero1", "fsdp"):
        found = [simulated(of, seconds, network, n, parallel) for n in counts]  # type: ignore[arg-type]
        for part in found[0]:
            lines.append(f"| {parallel}: {part} | " + " | ".join(f"{one[part] / alone:.3f}" for one in found) + " |")
        whole = " | ".join(f"**{sum(one.values()) / alone:.3f}**" for one in found)
        lines.append(f"| **{parallel}** | {whole} |")
    shares = " | ".join(f"{of.work_share(n):.3f}" for n in counts)
    lines.append(f"| largest share of the orthogonalization | {shares} |")
    return "\n".join(lines)


# --- measurement -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure a step on one device and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="155m")
    parser.add_argument("--batch-size", type=int, help="sequences per step; default: the preset's")
    parser.add_argument("--steps", type=int, default=5, help="rounded up to whole periods of projection (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure.prepare(device, given.threads)
    changes: dict[str, Any] = {} if given.batch_size is None else {"batch_size": given.batch_size}
    config = resolve(given.preset, **changes | ({} if device.type == "cuda" else {"compile": False}))
    made = Arrangement(config, GPT2_VOCAB, device, graphs=device.type == "cuda")
    parts = [made.step() for _ in range(whole_periods(given.steps, made.optimizers.projection.every))]
    seconds = {part: median(taken[part] for taken in parts) for part in PARTS}
    seconds["projection"] = sum(taken["projection"] for taken in parts) / len(parts)  # not in every step
    save(
        f"scaling_{device.type}",
        {
            "command": "python benchmarks/scaling.py " + " ".join(sys.argv[1:]), "measured_on": machine,
            "device": device.type, "preset": given.preset, "steps": len(parts), "seconds": seconds,
            "tokens_a_step": config.train.batch_size * config.model.seq_len,
            "engine": made.training_step.describe(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
