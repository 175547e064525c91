"""What a `tiny` run costs beyond forward, backward and optimizer step: `python benchmarks/trainer_overhead.py`.

Within one run, by wall clock: the trainer's overhead (batches, gradient norm, telemetry, metrics, and everything else
in the loop besides forward, loss, backward, optimizer step and projection), and the share of validation.
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

from benchmarks.saved import save, take_no_flags
from ngpt.config import Runtime
from ngpt.model.loss import cross_entropy
from ngpt.optim.build import Optimizers
from ngpt.optim.projection import LazyProjection
from ngpt.presets import resolve
from ngpt.training import step, trainer

WORK: dict[str, float] = defaultdict(float)

RUNS: dict[str, dict[str, Any]] = {
    "Muon": {},
    "Muon, geodesic": {"geodesic_muon": "lr-norm"},
    "Muon, geodesic, momentum rotated": {"geodesic_muon": "lr-norm", "momentum_transport": "rotate"},
    "Muon, Polar Express": {"orthogonalizer": "polar-express"},
    "Muon, NorMuon": {"normuon": "short-axis"},
    "Muon, cautious decay": {"weight_decay": 1.0, "cautious_wd": True},
    "Muon, projected every step": {"lazy_proj_freq": 1},
    "Adam": {"optimizer": "adam"},
}
"""The kinds of run; the first is the reference for times."""


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` wrapped so that its seconds add up under `name`."""

    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            WORK[name] += time.perf_counter() - begin

    return call


def forget_start_up(step: int, _: float) -> None:
    """Discard what was measured in the first step, which training time does not include either."""
    if step == 1:
        WORK.clear()


def measure(fields: dict[str, Any]) -> dict[str, float]:
    """Make one whole `tiny` run and return the shares of its parts."""
    WORK.clear()
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(out=Path(folder), threads=1, keep_weights=False)
        _, record = trainer.train(resolve("tiny", **fields), runtime, forget_start_up)
    work = sum(WORK.values())
    return {
        "train_seconds": record.train_seconds,
        "overhead_share": 1 - work / record.train_seconds,
        "validation_share": record.eval_seconds / (record.train_seconds + record.eval_seconds),
        **{f"{name}_share": seconds / record.train_seconds for name, seconds in WORK.items()},
    }


def main() -> None:
    """Measure every kind of run three times, interleaved, and keep the medians."""
    forward = torch.nn.Module.__call__

    def forward_of_whole_models(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        whole = torch.is_grad_enabled() and hasattr(module, "blocks")
        return (timed("forward", forward) if whole else forward)(module, *arguments, **options)

    torch.nn.Module.__call__ = forward_of_whole_models  # type: ignore[method-assign]
    step.cross_entropy = timed("forward", cross_entropy)  # type: ignore[attr-defined]
    torch.Tensor.backward = timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    Optimizers.move = timed("step", Optimizers.move)  # type: ignore[method-assign]
    LazyProjection.after_step = timed("step", LazyProjection.after_step)  # type: ignore[method-assign]

    rounds = [{name: measure(fields) for name, fields in RUNS.items()} for _ in range(3)]
    results = {}
    print(f"{'run':34} {'time':>5} overhead validation forward backward  step")
    for name in RUNS:
        first = next(iter(RUNS))
        for measured in rounds:
            measured[name]["time_ratio"] = measured[name]["train_seconds"] / measured[first]["train_seconds"]
        row = {key: sorted(measured[name][key] for measured in rounds)[1] for key in rounds[0][name]}
        results[name] = row
        print(
            f"{name:34} {row['time_ratio']:5.2f} {row['overhead_share']:8.1%} {row['validation_share']:10.1%} "
            f"{row['forward_share']:7.1%} {row['backward_share']:8.1%} {row['step_share']:5.1%}"
        )
    save("trainer_overhead", {"command": "python benchmarks/trainer_overhead.py", "median_of": 3, "rows": results})


if __name__ == "__main__":
    take_no_flags(__doc__)
    main()
