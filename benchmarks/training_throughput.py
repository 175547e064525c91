"""Training throughput, and where a step's time goes: `python benchmarks/training_throughput.py`.

Compares eager and compiled, with and without CUDA graphs, Muon and Adam, on random tokens. Each step is the trainer's
own (`ngpt.training.step`), with schedule, batch, the host reading loss and norm, and lazy projection. On a CPU, whose
speed varies, the arrangements alternate step by step; on a GPU they run one after another, each with all the memory.
`--whole-run` adds the throughput given in the record of a run, `--profile` the time of each kernel (or, on a CPU,
operation) in a step. `--against CHECKOUT` compares with the code of another checkout instead, at several presets.

The floor: 6 operations per token and weight of a matrix product, 12 n_layer n_embd seq_len per token for attention, and
Muon's iterations once per step, at the measured rate of large square products.
"""

import argparse
import dataclasses
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.checkouts import compare
from benchmarks.measure import matmul_rate, order, prepare, ratio
from benchmarks.saved import FOLDER, save
from ngpt.config import RunConfig, Runtime, flatten
from ngpt.cost import pass_operations, polar_operations
from ngpt.data.batches import Batches, Windows
from ngpt.data.shards import write_shard
from ngpt.data.tokenizers import BYTES_VOCAB, GPT2_VOCAB
from ngpt.errors import exit_code_of
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.presets import resolve
from ngpt.training import environment
from ngpt.training.environment import commit
from ngpt.training.sharding import ParameterSharding
from ngpt.training.step import Feed, TrainingStep
from ngpt.training.trainer import train

PARTS = ("gradients", "move", "projection")
"""Parts of a step: batch, forward, backward and the host reading the loss; the optimizers; lazy projection."""

TOKENS = 2**21
"""Number of random training tokens."""

MOST_KERNELS = 40
"""Number of kernels that a profile keeps."""


class Arrangement:
    """A model in training with one configuration, executed in one way."""

    def __init__(self, config: RunConfig, vocabulary: int, device: torch.device, *, graphs: bool) -> None:
        """Build model, optimizers and batches, and take three steps: one eager, two like all that follow."""
        tokens = np.random.default_rng(0).integers(0, vocabulary, TOKENS).astype(np.uint16)
        self.config, self.vocabulary, self.device = config, vocabulary, device
        self.model = build_model(config.model, vocabulary, seed=0).to(device)
        self.optimizers = build_optimizers(self.model, config)
        batches = Batches(Windows(tokens, config.model.seq_len), batch_size=config.train.batch_size, seed=0)
        bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=config.train.dtype == "bfloat16")
        self.training_step = TrainingStep(
            self.model, self.optimizers, Feed(batches, device), bfloat16,
            ParameterSharding(self.model, parameter_specs(self.model)),
            compiled=config.train.compile, graphs=graphs,
        )  # fmt: skip
        self.steps, self.losses = 0, list[float]()
        for _ in range(3):
            self.step()

    def step(self) -> dict[str, float]:
        """Take one step; return the seconds of its parts."""
        clock = [self._now()]
        self.optimizers.schedule(step=self.steps, progress=0.0)
        loss, norm = self.training_step.take_gradients(self.steps)
        assert np.isfinite([loss, norm]).all(), f"step {self.steps} of {self.config} is not finite"
        clock.append(self._now())
        self.training_step.move()
        clock.append(self._now())
        self.steps += 1
        self.optimizers.projection.after_step(self.steps, measure=False)
        self.training_step.end(moved=True)
        clock.append(self._now())
        self.losses.append(loss)
        return dict(zip(PARTS, np.diff(clock).tolist(), strict=True))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def whole_periods(steps: int, every: int) -> int:
    """Return the number of steps rounded up to a multiple of the period of projection, for a fair share of it."""
    return -(-steps // every) * every


def row_of(name: str, made: Arrangement, parts: list[dict[str, float]], rates: dict[str, float]) -> dict[str, Any]:
    """Return a row of results of one arrangement."""
    seconds = [sum(part.values()) for part in parts]
    tokens = made.config.train.batch_size * made.config.model.seq_len
    passes, iterations = pass_operations(made.config, made.vocabulary), polar_operations(made.config)
    floor = passes / rates[made.config.train.dtype]
    if iterations:
        floor += iterations / rates[made.config.optim.polar_dtype]
    every = made.optimizers.projection.every
    totals = {part: sum(taken[part] for taken in parts) / len(parts) for part in PARTS}
    return {
        "arrangement": name,
        "engine": made.training_step.describe(),
        "optimizer": made.config.optim.optimizer,
        "tokens_a_step": tokens,
        "tokens_per_second": tokens / median(seconds),
        "milliseconds": 1e3 * median(seconds),
        "part_milliseconds": {part: 1e3 * median(taken[part] for taken in parts) for part in PARTS},
        "share_of_time": {part: total / sum(totals.values()) for part, total in totals.items()},
        "projection_every": every,
        "flops": passes + iterations,
        "floor_seconds": floor,
        "share_of_floor": floor / median(seconds),
        "first_loss": made.losses[0],
        "last_loss": made.losses[-1],
        "seconds": seconds,
    }


def arrangements(options: argparse.Namespace, device: torch.device) -> dict[str, tuple[RunConfig, bool]]:
    """Return configuration and use of CUDA graphs by name, the reference (presumably the fastest) first."""
    fields: dict[str, Any] = {"batch_size": options.batch_size} if options.batch_size else {}
    graphs = [True, False] if device.type == "cuda" else [False]
    found = {}
    for optimizer, compiled, graph in itertools.product(("muon", "adam"), (True, False), graphs):
        if optimizer == "adam" and (compiled, graph) != (True, graphs[0]):
            continue
        config = resolve(options.preset, optimizer=optimizer, compile=compiled, **fields)
        found[f"{optimizer}, {'compiled' if compiled else 'eager'}{', CUDA graphs' if graph else ''}"] = config, graph
    return found


def precisions(chosen: dict[str, tuple[RunConfig, bool]]) -> list[str]:
    """Return the precisions of all products that the arrangements compute."""
    configs = [config for config, _ in chosen.values()]
    iterations = {config.optim.polar_dtype for config in configs if config.optim.optimizer == "muon"}
    return sorted({config.train.dtype for config in configs} | iterations)


def timed(
    chosen: dict[str, tuple[RunConfig, bool]],
    vocabulary: int,
    device: torch.device,
    rates: dict[str, float],
    rounds: int,
    *,
    profiled: bool = False,
) -> list[dict[str, Any]]:
    """Time arrangements that alternate step by step; return a row of results for each.

    profiled: whether rows have the time of each kernel as well, from steps after those that are timed.
    """
    made = {name: Arrangement(config, vocabulary, device, graphs=graph) for name, (config, graph) in chosen.items()}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in made}
    every = max(one.optimizers.projection.every for one in made.values())
    for number in range(whole_periods(rounds, every)):
        for name in order(list(made), number):
            parts[name].append(made[name].step())
    rows = [row_of(name, made[name], parts[name], rates) for name in made]
    for row in rows if profiled else ():
        row["kernels"] = kernel_times(made[row["arrangement"]], whole_periods(1, every))
    return rows


def kernel_times(made: Arrangement, steps: int) -> list[dict[str, Any]]:
    """Profile some steps; return name, calls and milliseconds per step of the kernels that take longest.

    On a CPU, operations stand for kernels, each without those that it calls.
    """
    on_gpu = made.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            made.step()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        {
            "name": event.key, "calls": event.count / steps,
            "milliseconds": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / steps,
        }
        for event in profiler.key_averages() if event.device_type == kind
    ]  # fmt: skip
    total = sum(kernel["milliseconds"] for kernel in found)
    longest = sorted(found, key=lambda kernel: -kernel["milliseconds"])[:MOST_KERNELS]
    return [kernel | {"share": kernel["milliseconds"] / total} for kernel in longest]


def whole_run(config: RunConfig, vocabulary: int, threads: int) -> dict[str, Any]:
    """Train for 60 steps without telemetry, on random shards for GPT-2 tokens; return figures from the record."""
    with tempfile.TemporaryDirectory() as folder:
        training = dataclasses.replace(config.train, steps=60, eval_every=1000, eval_tokens=2**11, telemetry_every=0)
        config = dataclasses.replace(config, train=training)
        if config.data.tokenizer == "gpt2":
            ids = np.random.default_rng(0).integers(0, vocabulary, TOKENS).astype(np.uint16)
            for split, part in (("train", ids), ("val", ids[: 2**14])):
                write_shard(Path(folder) / f"{split}.bin", part)
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, data=folder))
        _, record = train(
            config, Runtime(out=Path(folder) / "runs", threads=threads, progress=False, keep_weights=False)
        )
    kept = ("engine", "tokens_per_second", "train_seconds", "peak_memory_bytes", "orthogonalizer")
    return {name: getattr(record, name) for name in kept}


INSTRUCTION_SETS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that keep PyTorch's and MKL's code from what the processor could do"""

COMPARED = ("tiny", "rung-1", "rung-2", "trinity")
"""Presets at which two checkouts are compared."""

RULES: dict[str, dict[str, Any]] = {"Muon": {}, "Muon, geodesic": {"geodesic_muon": "lr-norm"}}
RULES |= {"Adam": {"optimizer": "adam"}}


def against(options: argparse.Namespace, machine: dict[str, Any], rate: float) -> dict[str, Any]:
    """Compare with the code in `options.against`; return what is saved, and print a line for each comparison."""
    rows = []
    for preset, (rule, own) in itertools.product(COMPARED, RULES.items()):
        config = resolve(preset, **own)
        names = ["n_layer", "n_embd", "n_head", "seq_len", "alpha", "batch_size"]
        names += ["lr", "aux_lr", "aux_lr_ratio", "schedule", "adam_beta1", "adam_beta2"]
        names += ["ns_steps"] if config.optim.optimizer == "muon" else []
        fields = own | {name: value for name, value in flatten(config).items() if name in names}
        fields["logit_scale_init"] = 1.0  # that of checkouts in which it is no setting
        compiled = config.train.compile
        seconds = compare(
            options.against, fields, BYTES_VOCAB, compiled=compiled, threads=options.threads, rounds=options.rounds
        )
        flops = [pass_operations(config, BYTES_VOCAB), polar_operations(config)]
        tokens = config.train.batch_size * config.model.seq_len
        row = {"preset": preset, "rule": rule, "compiled": compiled}
        row |= {"tokens_a_step": tokens, "seconds": seconds, "flops": flops}
        row["speedup"] = dataclasses.asdict(ratio(seconds["before"], seconds["after"]))
        row["share_of_floor"] = sum(flops) / rate / median(seconds["after"])
        row["tokens_per_second"] = tokens / median(seconds["after"])
        name = rule + ", compiled" * compiled
        print(f"{preset:8} {name:26} {row['tokens_per_second']:9,.0f} tokens/s", end="")
        print("  {median:.2f} [{low:.2f}, {high:.2f}] x before".format(**row["speedup"]), end="")
        print(f"  floor {row['share_of_floor']:4.0%}")
        rows.append(row)
    return {"command": command_of(options), "measured_on": machine, "rate": rate, "rows": rows}


def command_of(options: argparse.Namespace) -> str:
    """Return the command with all that decides what is measured."""
    words = {"rounds": options.rounds, "threads": options.threads}
    if options.against is None:
        words |= {"preset": options.preset, "batch-size": options.batch_size}
    flags = "".join(f" --{name} {value}" for name, value in words.items() if value is not None)
    where = f" --against <checkout of {commit(options.against)}>" if options.against is not None else ""
    more = " --profile" * options.profile + " --whole-run" * options.whole_run
    limits = "".join(f"{name}={os.environ[name]} " for name in INSTRUCTION_SETS if name in os.environ)
    return f"{limits}python benchmarks/training_throughput.py{flags}{where}{more}"


def main(arguments: list[str]) -> int:
    """Train every arrangement, print a table, and save everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    parser.add_argument("--preset", help="default: 155m on a GPU, tiny elsewhere")
    parser.add_argument("--batch-size", type=int, help="sequences per step; default: 32,768 tokens on a GPU")
    parser.add_argument("--rounds", type=int, default=21, help="timed steps of each, in whole periods of projection")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s, as in campaigns)")
    parser.add_argument("--whole-run", action="store_true", help="also make a whole run")
    parser.add_argument("--profile", action="store_true", help="also list the kernels that take longest")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    parser.add_argument("--against", type=Path, help="compare with the code of this checkout, on a CPU")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    if options.against is not None and not (options.against / "benchmarks/training_throughput.py").is_file():
        parser.error(f"--against {options.against}: no checkout with benchmarks/training_throughput.py")
    device = environment.choose_device(options.device)
    usual = "155m" if device.type == "cuda" else "tiny"
    options.preset = options.preset or usual
    if options.batch_size is None and device.type == "cuda":
        options.batch_size = 2**15 // resolve(options.preset).model.seq_len
    machine = prepare(device, options.threads)
    environment.prepare(device, options.threads)
    if options.against is not None:
        rate = matmul_rate(torch.float32, device, threads=options.threads)
        path = options.json or FOLDER / "training_against_cpu.json"
        save(str(path.resolve().with_suffix("")), against(options, machine, rate))
        return 0
    chosen = arrangements(options, device)
    config = next(iter(chosen.values()))[0]
    vocabulary = GPT2_VOCAB if config.data.tokenizer == "gpt2" else BYTES_VOCAB
    rates: dict[str, float] = {
        name: matmul_rate(getattr(torch, name), device, threads=options.threads) for name in precisions(chosen)
    }

    at_once = [chosen] if device.type == "cpu" else [{name: chosen[name]} for name in chosen]
    rows = [
        row
        for few in at_once
        for row in timed(few, vocabulary, device, rates, options.rounds, profiled=options.profile)
    ]
    print(f"{options.preset}, {rows[0]['tokens_a_step']:,} tokens per step, {machine['device']}")
    for name, rate in rates.items():
        print(f"{rate / 1e12:,.2f} TFLOP/s in {name}")
    for row in rows:
        row["times_slower_than_first"] = dataclasses.asdict(ratio(row["seconds"], rows[0]["seconds"]))
        shares = ", ".join(f"{part} {share:.1%}" for part, share in row["share_of_time"].items())
        slower = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_slower_than_first"])
        print(
            f"{row['arrangement']:30} {row['tokens_per_second']:11,.0f} tokens/s {row['milliseconds']:9.2f} ms "
            f"{slower:>18} x the first  floor {row['share_of_floor']:4.0%}  {shares}"
        )
        for kernel in row.get("kernels", ()):
            print("    {share:5.1%} {milliseconds:8.3f} ms {calls:7.1f} calls  {name:.80}".format(**kernel))
    content: dict[str, Any] = {
        "command": command_of(options),
        "measured_on": machine,
        "rates": rates,
        "rows": rows,
    }
    name = f"training_throughput_{device.type}" + f"_{options.preset}" * (options.preset != usual)
    path = str((options.json or FOLDER / f"{name}.json").resolve().with_suffix(""))
    if options.whole_run:
        save(path, content)  # a machine that is lent may be gone before the run has ended
        content["whole_run"] = whole_run(config, vocabulary, options.threads)
        print(f"a whole run, from its record: {content['whole_run']['tokens_per_second']:,.0f} tokens/s")
    save(path, content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
