"""Shared by the benchmarks: interleaved timing, ratios with intervals, and the rates of the machine itself.

On a shared machine, milliseconds alone mean little. So everything that is compared is called in turn in one process,
ratios are taken within a round, and times are compared with the rates at which the same machine multiplies and copies.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from ngpt.kernels import dense
from ngpt.training.environment import device_name

SIDE = {"cpu": 2048, "cuda": 8192}
"""Number of rows of the square matrices that `matmul_rate` multiplies, at most."""

LONGEST_PRODUCT = 0.5
"""Seconds that a product in `matmul_rate` may take; where a precision is emulated, matrices are smaller."""

COPIED = {"cpu": 2**28, "cuda": 2**31}
"""Bytes that `bandwidth` copies: far more than fit in any cache."""

TRIALS = 10
"""Number of calls; the fastest one gives the rate."""


def prepare(device: torch.device, threads: int) -> dict[str, Any]:
    """Set the number of threads and turn TF32 off, so that float32 is float32; return a description of the machine."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    machine: dict[str, Any] = {"device": device_name(device), "threads": threads, "tf32": False}
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # CUDA graphs need another one
        properties = torch.cuda.get_device_properties(device)
        machine |= {"memory_bytes": properties.total_memory, "multiprocessors": properties.multi_processor_count}
        machine |= {"capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
    return machine


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Time one call, in seconds; on CUDA from an idle device until it is idle again, launches included."""
    if device.type != "cuda":
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1e3


def interleaved(
    functions: dict[str, Callable[[], object]],
    *,
    repetitions: int,
    device: torch.device,
    warm_up: int = 1,
    before: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Time `repetitions` calls of each function, in seconds, round by round, so that drift affects all of them alike.

    `order` gives the order within a round. The first `warm_up` rounds are discarded. `before` is called, untimed, with
    a function's name before each of its calls.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(-warm_up, repetitions):
        for name in order(list(functions), number):
            if before is not None:
                before(name)
            taken = seconds_of(functions[name], device)
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def order(names: list[str], number: int) -> list[str]:
    """Return the names in the order of round `number`: odd rounds are reversed, every second round rotates them."""
    first = number // 2 % len(names)
    turned = names[first:] + names[:first]
    return turned[:: -1 if number % 2 else 1]


@dataclass(frozen=True)
class Ratio:
    """The median of ratios taken within rounds, with its 95% bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(numerators: list[float], denominators: list[float]) -> Ratio:
    """Return the median of numerator / denominator over at least two rounds; the interval comes from a fixed seed."""
    ratios = np.divide(numerators, denominators)
    found = bootstrap((ratios,), np.median, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    return Ratio(float(np.median(ratios)), float(low), float(high))


def matmul_rate(dtype: torch.dtype, device: torch.device, *, threads: int) -> float:
    """Measure FLOP/s: the fastest of several products of square matrices, as large as SIDE and LONGEST_PRODUCT allow.

    The entries are random because zeros need less power and let a GPU run unrealistically fast.
    """
    side, threads_before = SIDE[device.type], torch.get_num_threads()
    A, B = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.set_num_threads(threads)
    small = side // 8
    once = min(_trials(lambda: A[:small, :small] @ B[:small, :small], device))  # the first calls load libraries
    while side > small and once * (side / small) ** 3 > LONGEST_PRODUCT:
        side //= 2
    A, B = (matrix[:side, :side].contiguous() for matrix in (A, B))
    seconds = _trials(lambda: dense.linear(A, B), device)
    torch.set_num_threads(threads_before)
    return 2 * side**3 / min(seconds)


def bandwidth(device: torch.device) -> float:
    """Measure bytes/s, read plus written: the fastest of several large copies within the device's memory."""
    source = torch.randn(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device.type] / min(_trials(lambda: target.copy_(source), device))


def _trials(function: Callable[[], object], device: torch.device) -> list[float]:
    return interleaved({"": function}, repetitions=TRIALS, device=device, warm_up=2)[""]


def floor_seconds(flops: float, rate: float, bytes_moved: float, bytes_per_second: float) -> float:
    """Return the least time that work can take at measured rates: its arithmetic or its memory traffic, if longer."""
    return max(flops / rate, bytes_moved / bytes_per_second)
