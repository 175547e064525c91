"""What a `tiny` run costs beyond forward, backward and optimizer step: `python benchmarks/trainer_overhead.py`.

In one run, by wall clock: the trainer's overhead (batches, gradient norm, telemetry, metrics: everything in the loop
that is not forward, loss, backward, optimizer step or projection), validation's share, and peak memory.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.saved import save
from ngpt.config import Runtime, resolve
from ngpt.optim.build import Optimizers
from ngpt.optim.projection import LazyProjection
from ngpt.training import trainer

WORK: dict[str, float] = defaultdict(float)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its seconds added up under `name`."""

    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            WORK[name] += time.perf_counter() - begin

    return call


def measure(optimizer: str) -> dict[str, float]:
    """One whole `tiny` run with its parts timed."""
    WORK.clear()
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(out=Path(folder), threads=1, keep_weights=False)
        _, record = trainer.train(resolve("tiny", optimizer=optimizer), runtime)
    work = sum(WORK.values())
    assert record.peak_memory_bytes is not None
    return {
        "train_seconds": record.train_seconds,
        "overhead_share": 1 - work / record.train_seconds,
        "validation_share": record.eval_seconds / (record.train_seconds + record.eval_seconds),
        "peak_memory_mb": record.peak_memory_bytes / 1e6,
        **{f"{name}_share": seconds / record.train_seconds for name, seconds in WORK.items()},
    }


def main() -> None:
    """Measure both optimizers three times and keep the medians."""
    forward = torch.nn.Module.__call__

    def forward_of_whole_models(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        whole = torch.is_grad_enabled() and hasattr(module, "blocks")
        return (timed("forward", forward) if whole else forward)(module, *arguments, **options)

    torch.nn.Module.__call__ = forward_of_whole_models  # type: ignore[method-assign]
    loss_of = trainer.loss_of
    trainer.loss_of = timed("forward", loss_of)  # type: ignore[attr-defined]
    torch.Tensor.backward = timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    Optimizers.move = timed("step", Optimizers.move)  # type: ignore[method-assign]
    LazyProjection.after_step = timed("step", LazyProjection.after_step)  # type: ignore[method-assign]

    results = {}
    print("optimizer   overhead  validation  forward  backward   step   memory")
    for optimizer in ("muon", "adam"):
        runs = [measure(optimizer) for _ in range(3)]
        row = {name: sorted(run[name] for run in runs)[1] for name in runs[0]}
        results[optimizer] = row
        print(
            f"{optimizer:10} {row['overhead_share']:9.1%} {row['validation_share']:11.1%} {row['forward_share']:8.1%} "
            f"{row['backward_share']:9.1%} {row['step_share']:6.1%} {row['peak_memory_mb']:5.0f} MB"
        )
    save("trainer_overhead", {"command": "python benchmarks/trainer_overhead.py", "median_of": 3, "rows": results})


if __name__ == "__main__":
    main()
