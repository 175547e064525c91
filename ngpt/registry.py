"""The optimizers of the hidden matrices by name: how each is built, and its defaults by preset. No torch.

To add one, write its factory and list it here; `--optimizer` then accepts its name.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ngpt.foreign import claims, is_class


def load(entry_point: str) -> Any:
    """Import and return what "package.module:name" stands for."""
    module, _, name = entry_point.partition(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """An optimizer as the trainer needs to know it. Entry points are "package.module:name", imported at first use."""

    factory: str
    """entry point of a function (groups of matrices with their `sphere_dim`, OptimConfig, device) -> optimizer"""
    defaults: Mapping[str, Mapping[str, float]]
    """configuration fields by preset, where they are not given: the rate of the hidden matrices, lr, and what else the
    optimizer wants different"""
    stays_on_sphere: Callable[[Any], bool]
    """whether its step with the options of an OptimConfig keeps unit vectors, which then need no projection"""
    capturable: bool = True
    """whether its step can be captured in a CUDA graph"""


RUNGS = ("rung-1", "rung-2", "rung-3", "rung-4")

OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adam": OptimizerEntry(
        factory="ngpt.optim.build:adam",
        defaults={
            "tiny": {"lr": 0.01},
            **dict.fromkeys(RUNGS, {"lr": 0.01, "adam_beta1": 0.7}),
            "paper": {"lr": 0.02},
            "trinity": {"lr": 0.003},
            "155m": {"lr": 0.001},
            "155m-literal": {"lr": 0.0005},
        },
        stays_on_sphere=lambda optim: False,
    ),
    "muon": OptimizerEntry(
        factory="ngpt.optim.build:muon",
        defaults={
            "tiny": {"lr": 0.03},
            **dict.fromkeys(RUNGS, {"lr": 0.02}),
            "paper": {"lr": 0.03},
            "trinity": {"lr": 0.01},
            "155m": {"lr": 0.01},
            "155m-literal": {"lr": 0.003},
        },
        stays_on_sphere=lambda optim: optim.geodesic_muon is not None,
    ),
}


FOREIGN = OptimizerEntry(
    factory="ngpt.optim.foreign:build",
    defaults={},
    stays_on_sphere=lambda optim: optim.match_step == "none" and claims(optim.optimizer, "stays_on_sphere"),
    capturable=False,
)
"""The entry of every class that --optimizer names"""


VOCAB_RULES = {"rmnp": "ngpt.optim.build:rmnp"}
"""Factories of optimizers of embedding and head other than AdamW, by the value of --vocab-rule"""


def is_optimizer(value: str) -> bool:
    """Return whether --optimizer may have this value: a name listed here, or one of a class, which may not exist."""
    return value in OPTIMIZERS or is_class(value)


def entry(optimizer: str) -> OptimizerEntry:
    """Return the entry of what --optimizer names: an optimizer listed here, or a class."""
    return OPTIMIZERS.get(optimizer, FOREIGN)
