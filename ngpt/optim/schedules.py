"""Schedules: the share of a run that is done -> a factor on the learning rate; step -> momentum. Pure functions."""

import math

from ngpt.config import OptimConfig


def lr_factor(optim: OptimConfig, *, step: int, progress: float) -> float:
    """Factor on every learning rate for the step after `step` finished ones, `progress` in [0, 1] of the run.

    Warm-up: (step + 1) / warmup_steps until it is 1. The factor is also 1 until the decay, which covers the last
    `decay_share` of the run. With r in [0, 1] the progress within it and f the floor, it is then f + (1 - f) times:
    cosine (1 + cos(pi r)) / 2; linear and wsd 1 - r; sqrt 1 - sqrt(r); power (1 - r)^decay_power; log, with rho
    `decay_rho`, 1 - log(1 + r / rho) / log(1 + 1 / rho).

    >>> lr_factor(OptimConfig(schedule="linear", lr_floor=0.5), step=50, progress=0.5)
    0.75
    >>> lr_factor(OptimConfig(schedule="sqrt", decay_share=0.5), step=50, progress=0.625)
    0.5
    >>> lr_factor(OptimConfig(warmup_steps=10), step=0, progress=0.0)
    0.1
    """
    floor, share = optim.lr_floor, optim.resolved_decay_share
    r = min(1.0, max(0.0, progress - (1 - share)) / share)
    match optim.schedule:
        case "constant":
            shape = 1.0
        case "cosine":
            shape = floor + (1 - floor) * (1 + math.cos(math.pi * r)) / 2
        case "linear" | "wsd":
            shape = 1 - (1 - floor) * r
        case "sqrt":
            shape = 1 - (1 - floor) * math.sqrt(r)
        case "power":
            shape = 1 - (1 - floor) * (1 - (1 - r) ** optim.decay_power)
        case "log":
            shape = 1 - (1 - floor) * math.log1p(r / optim.decay_rho) / math.log1p(1 / optim.decay_rho)
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
