"""Schedules: the share of a run that is done -> a factor on the learning rate; step -> momentum. Pure functions."""

import math

from ngpt.config import OptimConfig


def lr_factor(optim: OptimConfig, *, step: int, progress: float) -> float:
    """Factor on every learning rate for the step after `step` finished ones, `progress` in [0, 1] of the run.

    Warm-up: (step + 1) / warmup_steps until it is 1. Then, with f the floor, constant: 1; cosine:
    f + (1 - f) (1 + cos(pi p)) / 2; linear: 1 - (1 - f) p; wsd: 1, then linearly to f over the last `decay_share`.

    >>> lr_factor(OptimConfig(schedule="linear", lr_floor=0.5), step=50, progress=0.5)
    0.75
    >>> lr_factor(OptimConfig(warmup_steps=10), step=0, progress=0.0)
    0.1
    """
    floor = optim.lr_floor
    match optim.schedule:
        case "constant":
            shape = 1.0
        case "cosine":
            shape = floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            shape = 1 - (1 - floor) * progress
        case "wsd":
            decayed = max(0.0, progress - (1 - optim.decay_share)) / optim.decay_share
            shape = 1 - (1 - floor) * decayed
    return shape * min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else shape


def momentum_at(optim: OptimConfig, *, step: int) -> float:
    """Muon's momentum for the step after `step` finished ones: linear from start to end, then constant.

    >>> momentum_at(OptimConfig(momentum_start=0.85, momentum=0.95, momentum_warmup_steps=300), step=150)
    0.9
    """
    if optim.momentum_start is None:
        return optim.momentum
    done = min(1.0, step / optim.momentum_warmup_steps)
    return round(optim.momentum_start + (optim.momentum - optim.momentum_start) * done, 12)
