"""Before the first step on a CPU: how long a step will take at least, from a few products measured here."""

import time

import torch

from ngpt.config import RunConfig
from ngpt.cost import duration, pass_operations, polar_operations

ROWS, COLUMNS = 128, 1024
"""Sides of the products that are measured: a tenth of a second in all where bfloat16 is emulated"""

REPETITIONS = 3

EMULATED = 2.0
"""Factor by which a precision has to be slower than float32 for a note"""

WORTH_SAYING = 60.0
"""Shortest run, in seconds, whose length is announced"""


def product_rate(dtype: torch.dtype) -> float:
    """Measure the operations per second of products in `dtype` on this CPU, the fastest of a few."""
    A, B = torch.ones(ROWS, COLUMNS, dtype=dtype), torch.ones(COLUMNS, COLUMNS, dtype=dtype)
    seconds = []
    for _ in range(REPETITIONS + 1):  # the first one warms up
        begin = time.perf_counter()
        A @ B
        seconds.append(time.perf_counter() - begin)
    return 2 * ROWS * COLUMNS**2 / min(seconds)


def announcement(config: RunConfig, vocab_size: int, *, steps: int) -> list[str]:
    """Return what to tell a user before `steps` steps on a CPU; nothing if they are short and nothing is emulated."""
    work = pass_operations(config, vocab_size), polar_operations(config)
    names = config.train.dtype, config.optim.polar_dtype
    rates = {name: product_rate(getattr(torch, name)) for name in {*names, "float32"}}
    at_least = sum(operations / rates[name] for operations, name in zip(work, names, strict=True))
    lines = []
    if steps * at_least > WORTH_SAYING:
        lines.append(f"a step takes at least {at_least:.2g} s here, {steps} steps {duration(steps * at_least)}")
    for flag, name in {"--polar-dtype": names[1], "--dtype": names[0]}.items():
        slower = rates["float32"] / rates[name]
        if slower > EMULATED:
            words = f"{name} is emulated on this processor: products are {slower:.1f}x as fast with"
            lines.append(f"{words} {flag} float32")
    return lines
