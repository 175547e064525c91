"""Runs of a tenth of a second, and the same command in processes that can be killed at a chosen place."""

import itertools
import json
import math
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ngpt.command import main
from ngpt.config import RunConfig, Runtime
from ngpt.errors import exit_code_of
from ngpt.flags import to_flags
from ngpt.kernels import dense
from ngpt.optim.muon import SimpleMuon
from ngpt.presets import resolve
from ngpt.training import metrics, sharding, trainer
from ngpt.training.record import CHECKPOINT, RunRecord, read_metrics, read_record
from ngpt.training.trainer import train

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = dict(
    n_embd=32, n_layer=1, n_head=4, seq_len=32, batch_size=4, steps=12, lr=0.02, aux_lr=0.01,
    lazy_proj_freq=5, eval_tokens=512, eval_every=5, telemetry_every=4,
)  # fmt: skip
VAL = ["the first document of the validation text\n" * 9, "größer ≤ and the second " * 20]


def small(data: str, **fields: Any) -> RunConfig:
    """The configuration of a run of a tenth of a second."""
    values = {"data": data} | SMALL
    if fields.get("arch") == "gpt":
        del values["lazy_proj_freq"]
    if "time_budget_seconds" in fields:
        del values["steps"]
    if "overfit_windows" in fields:
        del values["eval_tokens"]
    values |= fields
    return resolve(seed=values.pop("seed", 0), **values)


def start(
    config: RunConfig, out: Path, progress: trainer.Progress | None = None, **runtime: Any
) -> tuple[Path, RunRecord]:
    """Carry out one run in this process."""
    return train(config, Runtime(out=out, threads=1, progress=False, **runtime), progress)


def rows(folder: Path) -> list[dict[str, float]]:
    """The metrics without the two columns that are not reproducible."""
    clocked = {"seconds", "train_seconds"}
    return [{key: value for key, value in row.items() if key not in clocked} for row in read_metrics(folder)]


def outcome(folder: Path) -> tuple[Any, ...]:
    """Everything that two runs of the same bits agree in."""
    record = read_record(folder)
    result = record.final_val_loss, record.weights_sha256
    return record.status, record.steps, *result, record.skipped_steps, record.limited_by, rows(folder)


Undisturbed = Callable[[RunConfig], tuple[Any, ...]]

# --- the command in processes of its own -----------------------------------------------------------------------------

PLACES = ["after a step", "inside a row", "before a rename", "after a rename"]


def die_at(place: str, count: int) -> None:
    """Make this process kill itself at the `count`-th passage of a place, without any clean-up."""
    passages = itertools.count(1)

    def passed() -> None:
        if next(passages) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    step, replace, write = trainer.Run.step, os.replace, metrics.MetricsFile.write

    def step_and_die(run: trainer.Run) -> Any:
        made = step(run)
        passed()
        return made

    def write_and_die(file: metrics.MetricsFile, row: dict[str, float]) -> None:
        file.file.write(json.dumps(row).encode()[:20])
        passed()
        file.file.truncate(file.file.tell() - 20)
        write(file, row)

    def replace_and_die(old: Path, new: Path) -> None:
        if place == "before a rename" and new.name == CHECKPOINT:
            passed()
        replace(old, new)
        if place == "after a rename" and new.name == CHECKPOINT:
            passed()

    if place == "after a step":
        trainer.Run.step = step_and_die  # type: ignore[assignment, method-assign]
    elif place == "inside a row":
        metrics.MetricsFile.write = write_and_die  # type: ignore[assignment, method-assign]
    else:
        os.replace = replace_and_die  # type: ignore[assignment]


def count_calls(name: str, share: Callable[[Any, Any], float], sent: dict[str, float]) -> None:
    """Make a collective add to `sent` the bytes of its tensor that this rank sends, a fraction `share` of them."""
    of_fsdp = {"all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}
    called = of_fsdp.get(name, name)
    if name in of_fsdp and hasattr(dist, f"{name}_single"):
        called = f"{name}_single"  # the name since torch 2.13
    plain, second = getattr(dist, called), name in of_fsdp  # those write to their first argument

    def counted(*arguments: Any, **more: Any) -> Any:
        named = (more[key] for key in ("output", "output_tensor", "input", "input_tensor") if key in more)
        given = [*arguments, *named]
        tensor, other = given[1 if second else 0], given[1] if len(given) > 1 else None
        sent[name] += share(tensor, other) * tensor.numel() * tensor.element_size()
        return plain(*arguments, **more)

    setattr(dist, called, counted)


def count_sent(path: Path) -> None:
    """Count from now on the bytes that this process has to send in each kind of exchange; written to `path` at exit."""
    sent: dict[str, float] = defaultdict(float)
    count, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    shares_of: dict[str, Callable[[Any, Any], float]] = {
        "reduce": lambda tensor, to: float(to != rank),
        "broadcast": lambda tensor, source: (count - 1.0) * (source == rank) * (tensor.dtype == torch.float32),
        "all_reduce": lambda tensor, _: 2.0 * (count - 1) / count * (tensor.dtype == torch.float32),
        "all_gather": lambda tensor, _: count - 1.0,
        "reduce_scatter": lambda tensor, _: (count - 1.0) / count,
    }
    for name, share in shares_of.items():
        count_calls(name, share, sent)
    swap = dist.all_to_all_single

    def counted_swap(output: Any, sent_bytes: Any, sizes_in: Any, sizes_out: Any, **more: Any) -> Any:
        sent["all_to_all"] += sum(sizes_out) - sizes_out[rank]
        return swap(output, sent_bytes, sizes_in, sizes_out, **more)

    dist.all_to_all_single = counted_swap
    util.Finalize(None, lambda: path.write_text(json.dumps(sent)), exitpriority=1)


def broken_step(at: int, *, normuon_too: bool = False) -> Callable[[SimpleMuon], None]:
    """A step of the hidden optimizer that makes every weight it moves NaN from its `at`-th call on.

    NorMuon's only if asked.
    """
    calls, step = itertools.count(1), SimpleMuon.step

    def broken(optimizer: SimpleMuon) -> None:
        step(optimizer)
        plain = optimizer.param_groups[0]["normuon"] is None
        if next(calls) >= at and (plain or normuon_too):
            for group in optimizer.param_groups:
                torch._foreach_mul_([parameter.detach() for parameter in group["params"]], math.nan)

    return broken


def command(
    arguments: list[str],
    errors: Path,
    death: tuple[str, int] | None,
    file_bytes: int | None,
    environment: dict[str, str],
) -> None:
    """Run the command in this process, with its standard error in a file."""
    os.environ |= environment
    if "PLAIN_PRODUCTS" in environment:
        dense.BY_ONEDNN = False
    if "SHARDED_DIM" in environment:
        sharding.FullyShardedParameters.__init__.__kwdefaults__["dim"] = int(environment["SHARDED_DIM"])
    if "BROKEN_AT" in environment:
        SimpleMuon.step = broken_step(int(environment["BROKEN_AT"]))  # type: ignore[assignment, method-assign]
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if "COUNTED" in environment:
        count_sent(Path(f"{environment['COUNTED']}{environment['RANK']}.json"))
    if death is not None:
        die_at(*death)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.exit(exit_code_of(lambda: main(arguments)))


def flags(config: RunConfig, out: Path, *more: str) -> list[str]:
    """The command line that gives `config`, with a checkpoint every 3 steps."""
    return [*to_flags(config), "--out", str(out), "--threads", "1", "--save-every", "3", "--no-progress", *more]


class Child:
    """The command in a process of its own; forked from one that has imported torch, so that it starts at once."""

    def __init__(
        self,
        arguments: list[str],
        errors: Path,
        death: tuple[str, int] | None = None,
        file_bytes: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ngpt.training.trainer", "torch._dynamo", "torch.distributed.fsdp", "pytest"])
        self.errors = errors
        self.process = context.Process(target=command, args=(arguments, errors, death, file_bytes, environment or {}))
        self.process.start()

    def exit_code(self, seconds: float = 60) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode


def ranks_of(
    arguments: list[str], folder: Path, count: int, of_rank: list[list[str]] | None = None, **more: Any
) -> list[Child]:
    """The command on several ranks, as torchrun starts them; each one's errors are in `folder`.

    of_rank: further arguments of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Child([*arguments, *(of_rank or [[]] * count)[rank]], folder / f"errors{rank}", environment={
            name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank, **more}.items()
        })
        for rank in range(count)
    ]  # fmt: skip


def count_rows(out: Path) -> int:
    """Lines of metrics in `out`."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/metrics.jsonl"))


def wait_for_rows(out: Path, count: int) -> None:
    """Wait until the metrics in `out` have so many lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if count_rows(out) >= count:
            return
        time.sleep(0.002)
    raise TimeoutError


def killed(config: RunConfig, out: Path, at: int = 8) -> Path:
    """The folder of a run that was interrupted in step `at`, with its last checkpoint."""

    def interrupt(step: int, _: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, out, interrupt, save_every=3)
    (folder,) = out.glob(f"*-s{config.seed}")
    assert (folder / CHECKPOINT).is_file() and read_record(folder).status == "killed"
    return folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, if there is one."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def open_up(folder: Path) -> None:
    """Let everybody read a folder of runs, and pass through the folders above it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for above in folder.parents[:-2]:
        above.chmod(above.stat().st_mode | 0o111)
