"""Which batch size a preset should have: `python benchmarks/batch_size.py --preset rung-1`.

(a) Tokens a second against sequences a step and tokens a sequence: a fact of the machine. Each combination makes the
trainer's own steps on random tokens, in short slices that alternate.

(b) Final validation loss against sequences a step, at one number of tokens and the preset's context, at the best of a
few hidden rates for each, on a few seeds: a fact of the model. The answer is the largest batch, from the best one on
without a gap, that loses less than TOLERATED against it. Nothing else is tuned. Runs are kept in --out: the same
command goes on where it was interrupted.
"""

import argparse
import dataclasses
import math
import multiprocessing
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product, takewhile
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import core_count, wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import torch

from benchmarks.measure import order, prepare
from benchmarks.saved import FOLDER, save
from benchmarks.training_throughput import Arrangement
from ngpt.campaign.engine import without_places
from ngpt.command import parse
from ngpt.config import RunConfig, Runtime
from ngpt.data.tokenizers import BYTES_VOCAB, GPT2_VOCAB
from ngpt.errors import exit_code_of, require
from ngpt.training import environment
from ngpt.training.trainer import train

TOLERATED = 0.02
"""Loss, in nats per token, that a larger batch may cost: the smallest effect that matters."""

SLICE = 0.25
"""Seconds, at least, that a combination steps before the next one has its turn."""

FIRST_SEED = 130_000
"""Seeds of their own, which no campaign uses."""


def with_size(config: RunConfig, *, batch_size: int, seq_len: int, **train_fields: Any) -> RunConfig:
    """Return `config` with another batch and context, and other fields of its training section."""
    model = dataclasses.replace(config.model, seq_len=seq_len)
    training = dataclasses.replace(config.train, batch_size=batch_size, compile=False, **train_fields)
    return dataclasses.replace(config, model=model, train=training)


# --- (a) throughput --------------------------------------------------------------------------------------------------


def throughput(config: RunConfig, batches: list[int], contexts: list[int], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each combination: the median over its slices, of `seconds` in all, of tokens a second."""
    device = torch.device("cpu")
    vocabulary = GPT2_VOCAB if config.data.tokenizer == "gpt2" else BYTES_VOCAB
    made: dict[str, Arrangement] = {}
    for size, context in product(batches, contexts):
        sized = with_size(config, batch_size=size, seq_len=context)
        made[f"{size} x {context}"] = Arrangement(sized, vocabulary, device, graphs=False)
    rates: dict[str, list[float]] = {name: [] for name in made}
    for number in range(max(1, math.ceil(seconds / SLICE))):
        for name in order(list(made), number):
            rates[name].append(_slice(made[name]))
    sizes = dict(zip(made, product(batches, contexts), strict=True))
    return [
        {"batch_size": sizes[name][0], "seq_len": sizes[name][1], "tokens_per_second": median(found), "slices": found}
        for name, found in rates.items()
    ]


def _slice(one: Arrangement) -> float:
    """Step for SLICE seconds, at least once; return tokens a second."""
    steps, begin = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - begin < SLICE:
        one.step()
        steps += 1
    tokens = one.config.train.batch_size * one.config.model.seq_len
    return steps * tokens / (time.perf_counter() - begin)


# --- (b) loss --------------------------------------------------------------------------------------------------------


def runs_of(
    config: RunConfig, batches: list[int], rates: list[float], tokens: int, seeds: int
) -> dict[tuple[int, float, int], RunConfig]:
    """Return the runs by batch, rate and seed, all on `tokens` training tokens up to the last step."""
    found = {}
    for size, lr, seed in product(batches, rates, range(seeds)):
        steps = max(1, round(tokens / (size * config.model.seq_len)))
        sized = with_size(
            config, batch_size=size, seq_len=config.model.seq_len, steps=steps, eval_every=steps, telemetry_every=0
        )
        optim = dataclasses.replace(config.optim, lr=lr)
        found[size, lr, seed] = dataclasses.replace(sized, optim=optim, seed=FIRST_SEED + seed)
    return found


def final_loss(config: RunConfig, out: Path) -> float | None:
    """Carry out one run on one thread, or find it finished, and return its loss; None if it diverged."""
    runtime = Runtime(out=out, device="cpu", threads=1, progress=False, keep_weights=False, resume=True)
    return train(config, runtime)[1].final_val_loss


def judge(losses: dict[tuple[int, float], list[float | None]]) -> tuple[list[dict[str, Any]], int]:
    """Return a row for each batch at its best rate, and the largest batch that loses less than TOLERATED.

    A rate at which a seed diverged is not chosen. Batches count from the best one on, until the first that loses more;
    a best rate at the end of the grid is marked, as a better one may lie beyond. Raises InputError if no rate is left.
    """
    rates = sorted({rate for _, rate in losses})
    rows = []
    for size in sorted({size for size, _ in losses}):
        whole = {rate: losses[size, rate] for rate in rates if None not in losses[size, rate]}
        means = {rate: mean(loss for loss in of if loss is not None) for rate, of in whole.items()}
        lr = min(means, key=means.__getitem__, default=None)
        at_edge = lr is not None and len(rates) > 1 and lr in (rates[0], rates[-1])
        of_rates = [{"lr": rate, "losses": losses[size, rate]} for rate in rates]
        loss = None if lr is None else means[lr]
        rows.append({"batch_size": size, "lr": lr, "at_edge": at_edge, "loss": loss, "rates": of_rates})
    finished = [row for row in rows if row["loss"] is not None]
    require(bool(finished), "every rate of every batch diverged: give smaller --rates")
    best = min(finished, key=lambda row: row["loss"])
    for row in rows:
        row["above_best"] = None if row["loss"] is None else row["loss"] - best["loss"]
        row["tolerated"] = row["loss"] is not None and row["above_best"] < TOLERATED
    from_best_on = takewhile(lambda row: row["tolerated"], rows[rows.index(best) :])
    return rows, max(row["batch_size"] for row in from_best_on)


def main(arguments: list[str]) -> int:
    """Measure what was asked for, print it, and save it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="rung-1", help="%(default)s")
    parser.add_argument("--flags", default="", help="further flags of train_architectural.py, for every run")
    parser.add_argument("--part", choices=["throughput", "loss", "both"], default="both", help="%(default)s")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], help="%(default)s")
    parser.add_argument("--contexts", type=int, nargs="+", help="of the throughput; default: half, once, twice")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each combination (%(default)s)")
    text = "hidden rates as multiples of the preset's (%(default)s)"
    parser.add_argument("--rates", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0], help=text)
    parser.add_argument("--tokens", type=int, help="training tokens of a run; default: the preset's")
    parser.add_argument("--seeds", type=int, default=3, help="%(default)s")
    parser.add_argument("--jobs", type=int, default=core_count(), help="runs at a time (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of run folders (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.json is None and options.part != "both":
        parser.error("a result in benchmarks/results has both parts; --json PATH writes elsewhere")
    if min(*options.batches, options.seeds, options.jobs, *(options.contexts or [1])) < 1 or options.seconds <= 0:
        parser.error("batches, contexts, seconds, seeds and jobs must be positive")
    config, _ = parse(["--preset", options.preset, *shlex.split(options.flags)])
    require(config.train.time_budget_seconds is None, "a run is as long as its tokens, not as a time budget")
    context, batches = config.model.seq_len, sorted(set(options.batches))
    tokens = options.tokens or config.train.steps * config.train.batch_size * context
    words = shlex.join(["python", "benchmarks/batch_size.py", *without_places(arguments)])
    content: dict[str, Any] = {"command": words, "preset": options.preset, "optimizer": config.optim.optimizer}
    if options.part != "loss":
        contexts = sorted(set(options.contexts or [max(2, context // 2), context, 2 * context]))
        content["measured_on"] = prepare(torch.device("cpu"), 1)
        environment.prepare(torch.device("cpu"), 1)
        content["throughput"] = throughput(config, batches, contexts, options.seconds)
        for row in content["throughput"]:
            print(f"{row['batch_size']:5} x {row['seq_len']:5} {row['tokens_per_second']:10,.0f} tokens/s")
    if options.part != "throughput":
        rates = sorted({config.optim.lr * factor for factor in options.rates})
        runs = runs_of(config, batches, rates, tokens, options.seeds)
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = dict(zip(runs, pool.map(final_loss, runs.values(), [options.out] * len(runs)), strict=True))
        losses = {
            (size, lr): [found[size, lr, seed] for seed in range(options.seeds)] for size, lr in product(batches, rates)
        }
        rows, largest = judge(losses)
        content["loss"] = {
            "tokens": tokens, "seq_len": context, "schedule": config.optim.schedule, "aux_lr": config.optim.aux_lr,
            "seeds": options.seeds, "tolerated": TOLERATED, "largest_tolerated": largest, "rows": rows,
        }  # fmt: skip
        for row in rows:
            if row["loss"] is None:
                print(f"{row['batch_size']:5} every rate diverged")
                continue
            edge = ", the end of the grid" if row["at_edge"] else ""
            print(f"{row['batch_size']:5} {row['loss']:8.4f} +{row['above_best']:.4f} at rate {row['lr']:g}{edge}")
        print(f"largest batch within {TOLERATED} nats of the best: {largest}")
    name = f"batch_size_{options.preset}" + f"_{config.optim.optimizer}" * (config.optim.optimizer != "muon")
    save(str((options.json or FOLDER / f"{name}.json").resolve().with_suffix("")), content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
