"""Several ranks: what they send, what each holds, and how long a step would take, from one device's measured step.

    python benchmarks/scaling.py --preset 155m --batch-size 8

measures the step; the tables of `docs/scaling.md` are made from it by `python -m experiments`. The numbers of bytes are
formulas, and tests count the same in real runs (tests/training/test_ranks.py).
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from benchmarks.saved import FOLDER, save
from benchmarks.training_throughput import PARTS, Arrangement
from ngpt.config import RunConfig
from ngpt.data.tokenizers import GPT2_VOCAB
from ngpt.files import read_json
from ngpt.model import build_model
from ngpt.model.roles import ParameterSpec, Role, parameter_specs
from ngpt.optim.build import muon_settings
from ngpt.optim.sharded import polar_work
from ngpt.optim.stack import needs_weights, polar_dtype, refined_dtype, rounds_early
from ngpt.optim.steps import second_moment_shape
from ngpt.presets import resolve
from ngpt.training.shares import owners

WORD = 4
"""Bytes of a float32 number: weights, gradients and optimizer state."""

Parallel = Literal["replicas", "fsdp"]


@dataclass(frozen=True)
class Parameters:
    """Shapes and roles of a model's parameters, and how Muon steps its hidden matrices."""

    shapes: Mapping[str, tuple[int, ...]]
    specs: Mapping[str, ParameterSpec]
    settings: Mapping[str, Any]
    """of SimpleMuon"""

    @classmethod
    def of(cls, config: RunConfig, vocab_size: int) -> "Parameters":
        """Of the model that `config` builds, and of its Muon; takes no memory."""
        with torch.device("meta"):
            model = build_model(config.model, vocab_size, seed=0)
        settings = muon_settings(config.optim) | {"polar_dtype": config.optim.polar_dtype}
        return cls({n: tuple(p.shape) for n, p in model.named_parameters()}, parameter_specs(model), settings)

    def elements(self, *, ndim: int | None = None, role: Role | None = None, inside: bool | None = None) -> int:
        """Numbers in all parameters, or in those of 2 or fewer dimensions, of a role, inside a block or outside."""
        total = 0
        for name, shape in self.shapes.items():
            chosen = ndim is None or (len(shape) == 2) == (ndim == 2)
            chosen &= role is None or self.specs[name].role == role
            chosen &= inside is None or name.startswith("blocks.") == inside
            total += torch.Size(shape).numel() if chosen else 0
        return total

    def padded(self, count: int, *, inside: bool) -> int:
        """Numbers in matrices inside of blocks or outside, with what FSDP2 fills up so that all shards are as long."""
        found = [self.shapes[n] for n in self.shapes if len(self.shapes[n]) == 2 and n.startswith("blocks.") == inside]
        return sum(math.ceil(m / count) * count * n for m, n in found)

    def work_share(self, count: int) -> float:
        """Of all orthogonalisation, the largest part that one of `count` ranks does."""
        owner, work = owners(self.shapes, self.specs, count), [0] * count
        for name, shape in self.shapes.items():
            if self.specs[name].role == Role.HIDDEN:
                work[owner[name]] += polar_work(shape)
        return max(work) / sum(work)

    def owned(self, count: int) -> list[tuple[int, int]]:
        """Numbers in the hidden matrices, and in the other matrices, that each rank owns."""
        owner, found = owners(self.shapes, self.specs, count), [[0, 0] for _ in range(count)]
        for name, shape in self.shapes.items():
            if len(shape) == 2:
                found[owner[name]][self.specs[name].role != Role.HIDDEN] += shape[0] * shape[1]
        return [(hidden, other) for hidden, other in found]


def step_bytes(of: Parameters) -> tuple[float, float]:
    """Bytes of all that goes to the owners of sharded matrices in a step of SimpleMuon, and of all that comes back.

    Of every hidden matrix (m, n): there m n of what is orthogonalised, back m n of the update, each in the
    orthogonaliser's precision where it may be; the weights instead of the update, and there beside the input, where an
    option needs them. Both ways NorMuon's second moments, and the momentum where it is transported.
    """
    H, settings = of.elements(role=Role.HIDDEN), of.settings
    there = (polar_dtype(settings).itemsize if rounds_early(settings) else WORD) * H
    back = refined_dtype(settings).itemsize * H
    if needs_weights(settings):
        there, back = there + WORD * H, WORD * H
    both = WORD * H * (settings["momentum_transport"] != "none")
    if settings["normuon"] is not None:
        hidden = [torch.Size(of.shapes[name]) for name, spec in of.specs.items() if spec.role == Role.HIDDEN]
        both += WORD * sum(max(second_moment_shape(shape, settings["normuon"])) for shape in hidden)
    return there + both, back + both


def projection_bytes(of: Parameters, count: int) -> float:
    """Bytes that a rank sends when sharded weights are projected: the lengths of the vectors that lie on all ranks."""
    cut = [name for name, spec in of.specs.items() if spec.sphere_dim == 0]
    return 2 * WORD * sum(of.shapes[name][1] for name in cut) * (count - 1) / count


def payload_bytes(of: Parameters, count: int, parallel: Parallel) -> dict[str, float]:
    """Bytes that a rank sends in a step without evaluation, the mean over `count` ranks, by what they are.

    With P numbers in matrices, p in vectors and scalars, t trained parameters and N ranks, each 4 bytes: replicas:
    P (N-1)/N gradients to owners and as much weights back. fsdp, P with rows filled up to a multiple of N: P (N-1)/N
    weights before the forward pass, those of the blocks again before the backward pass, P (N-1)/N gradients onto
    shards, and then (N-1)/N^2 of `step_bytes`. Both: 2 (p + t + 1) (N-1)/N of sums that all need. Of fsdp a projection
    comes to it (`projection_bytes`).
    """
    small, away = of.elements(ndim=1), (count - 1) / count
    trained = sum(spec.role != Role.FROZEN for spec in of.specs.values())
    both = {"vectors, norms and loss": 2 * WORD * (small + trained + 1) * away}
    if parallel == "replicas":
        P = of.elements(ndim=2)
        return {"gradients to owners": WORD * P * away, "weights from owners": WORD * P * away, **both}
    inside, outside = (of.padded(count, inside=place) for place in (True, False))
    there, back = step_bytes(of)
    return {
        "weights for the passes": WORD * (2 * inside + outside) * away,
        "gradients onto shards": WORD * (inside + outside) * away,
        "to be orthogonalised, to owners": there * away / count,
        "updates, to shards": back * away / count,
        **both,
    }


def memory_bytes(of: Parameters, count: int, parallel: Parallel) -> dict[str, float]:
    """Bytes of the fullest of `count` ranks, without activations: Muon's one state, AdamW's two numbers a parameter.

    AdamW's further number a parameter, its count of steps, and NorMuon's second moments are left out, and the room that
    a step takes in passing.
    """
    P, H, small = of.elements(ndim=2), of.elements(role=Role.HIDDEN), of.elements(ndim=1)
    if parallel == "replicas" or count == 1:
        fullest = max(hidden + 2 * other for hidden, other in of.owned(count)) + 2 * small
        return {"weights and gradients": 2 * WORD * (P + small), "optimizer state": WORD * fullest}
    blocks = len({name.split(".")[1] for name in of.shapes if name.startswith("blocks.")})
    together = of.elements(ndim=2, inside=True) / blocks + of.elements(ndim=2, inside=False)
    return {
        "weights and gradients, sharded": 2 * WORD * (P / count + small),
        "optimizer state, sharded": WORD * ((H + 2 * (P - H)) / count + 2 * small),
        "whole for a while: a block and what is outside of blocks": 2 * WORD * together,
    }


@dataclass(frozen=True)
class Network:
    """What is assumed of the machines: bytes a second that a rank sends, among so many ranks and beyond."""

    name: str
    ranks_a_machine: int
    inside: float
    between: float

    def bytes_per_second(self, count: int) -> float:
        """Of a rank, where `count` ranks take part: the slowest link on the way."""
        return self.inside if count <= self.ranks_a_machine else self.between


NETWORKS = {
    "cuda": Network("8 GPUs a machine, 450 GB/s inside, 50 GB/s a GPU between machines", 8, 450e9, 50e9),
    "cpu": Network("one rank a machine, 1.25 GB/s between machines", 1, 1.25e9, 1.25e9),
}

BACKWARD = 2 / 3
"""Of the passes' time; gradients travel meanwhile."""


def simulated(
    of: Parameters, seconds: Mapping[str, float], network: Network, count: int, parallel: Parallel
) -> dict[str, float]:
    """Seconds of a step's parts on `count` ranks, the tokens a rank kept (weak scaling).

    seconds: of gradients, move and projection on one device. Ranks divide move and projection as they divide the
    orthogonalisation, by its largest share. Replicas' gradients travel during the backward pass, shards' weights and
    gradients during both, but for the embedding's: its weights come before anything is computed, and its gradient when
    all is. That is waited for, with what is left over of the rest and all that travels in the step. No latency, no
    stragglers.
    """
    speed, away = network.bytes_per_second(count), (count - 1) / count
    sent = payload_bytes(of, count, parallel)
    if parallel == "replicas":
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
    """What a rank of `155m` sends in a step."""
    of = Parameters.of(resolve("155m"), GPT2_VOCAB)
    rows = ["| what a rank sends in a step, MB | " + " | ".join(f"{n} ranks" for n in counts) + " |"]
    rows.append("|---" * (len(counts) + 1) + "|")
    for parallel in ("replicas", "fsdp"):
        found = [payload_bytes(of, n, parallel) for n in counts]  # type: ignore[arg-type]
        for what in found[0]:
            rows.append(f"| {parallel}: {what} | " + " | ".join(f"{one[what] / 1e6:,.1f}" for one in found) + " |")
        rows.append(f"| **{parallel}** | " + " | ".join(f"**{sum(one.values()) / 1e6:,.0f}**" for one in found) + " |")
    return "\n".join(rows) + "\n"


def memory_table(counts: tuple[int, ...] = (1, 2, 8, 64)) -> str:
    """What the fullest rank of `155m` holds."""
    of = Parameters.of(resolve("155m"), GPT2_VOCAB)
    rows = ["| what the fullest rank holds, MB | " + " | ".join(f"{n} rank{'s' * (n > 1)}" for n in counts) + " |"]
    rows.append("|---" * (len(counts) + 1) + "|")
    for parallel in ("replicas", "fsdp"):
        found = [memory_bytes(of, n, parallel) for n in counts]  # type: ignore[arg-type]
        for what in found[-1]:
            cells = (f"{one[what] / 1e6:,.1f}" if what in one else "–" for one in found)
            rows.append(f"| {parallel}: {what} | " + " | ".join(cells) + " |")
        rows.append(f"| **{parallel}** | " + " | ".join(f"**{sum(one.values()) / 1e6:,.0f}**" for one in found) + " |")
    return "\n".join(rows) + "\n"


def simulation_tables() -> str:
    """A step's parts by number of ranks, from each device's measured step; of GPUs, until one is, from the targets."""
    tables = []
    for path in sorted(FOLDER.glob("scaling_*.json")):
        results = read_json(path)
        where = f"measured on {results['measured_on']['device']} by `{results['command']}`"
        from_step = f"From a step of {results['tokens_a_step']:,} tokens {where}"
        tables.append(_simulation(from_step, results["preset"], results["seconds"], NETWORKS[results["device"]]))
    if not (FOLDER / "scaling_cuda.json").exists():
        seconds = TARGET_TOKENS / TARGET_RATE
        parts = {"gradients": (1 - TARGET_SHARE) * seconds, "move": TARGET_SHARE * seconds, "projection": 0.0}
        from_step = (
            f"**Not measured:** were a GPU to reach what this project aims at, {TARGET_RATE:,} tokens/s in steps of "
            f"{TARGET_TOKENS:,} tokens, {TARGET_SHARE:.0%} of them the optimizers'"
        )
        tables.append(_simulation(from_step, "155m", parts, NETWORKS["cuda"]))
    return "\n\n".join(tables) + "\n"


TARGET_RATE, TARGET_TOKENS, TARGET_SHARE = 400_000, 32_768, 0.1
"""What one GPU is to reach with `155m`: tokens a second, tokens a step, the optimizers' share of it"""


def _simulation(from_step: str, preset: str, seconds: Mapping[str, float], network: Network) -> str:
    counts = (1, 8, 64, 512)
    of = Parameters.of(resolve(preset), GPT2_VOCAB)
    alone = sum(simulated(of, seconds, network, 1, "replicas").values())
    lines = [
        f"{from_step}, assuming {network.name}; time against one rank's step:",
        "",
        "| part | " + " | ".join(f"{n} rank{'s' * (n > 1)}" for n in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for parallel in ("replicas", "fsdp"):
        found = [simulated(of, seconds, network, n, parallel) for n in counts]  # type: ignore[arg-type]
        for part in found[0]:
            lines.append(f"| {parallel}: {part} | " + " | ".join(f"{one[part] / alone:.3f}" for one in found) + " |")
        whole = " | ".join(f"**{sum(one.values()) / alone:.3f}**" for one in found)
        lines.append(f"| **{parallel}** | {whole} |")
    shares = " | ".join(f"{of.work_share(n):.3f}" for n in counts)
    lines.append(f"| largest share of the orthogonalisation | {shares} |")
    return "\n".join(lines)


# --- measurement -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure one device's step and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="155m")
    parser.add_argument("--batch-size", type=int, help="sequences a step; the preset's if not given")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure.prepare(device, given.threads)
    changes: dict[str, Any] = {} if given.batch_size is None else {"batch_size": given.batch_size}
    config = resolve(given.preset, **changes | ({} if device.type == "cuda" else {"compile": False}))
    made = Arrangement(config, GPT2_VOCAB, device, graphs=device.type == "cuda")
    parts = [made.step() for _ in range(given.steps)]
    seconds = {part: median(taken[part] for taken in parts) for part in PARTS}
    seconds["projection"] = sum(taken["projection"] for taken in parts) / len(parts)  # not in every step
    save(
        f"scaling_{device.type}",
        {
            "command": "python benchmarks/scaling.py " + " ".join(sys.argv[1:]), "measured_on": machine,
            "device": device.type, "preset": given.preset, "steps": given.steps, "seconds": seconds,
            "tokens_a_step": config.train.batch_size * config.model.seq_len,
            "engine": made.training_step.said_in_one_line(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
