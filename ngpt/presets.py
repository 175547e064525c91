"""Presets, and whole configurations from a preset and the fields that differ from it. No torch."""

import dataclasses
import math
import os
from typing import Any, Literal

from ngpt.config import DECAYING, SECTIONS, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, flatten
from ngpt.cost import hidden_entries
from ngpt.errors import require
from ngpt.foreign import canonical
from ngpt.refusals import check, is_automaton
from ngpt.registry import entry, is_optimizer
from ngpt.sources import source_of

WIDTH_PER_LAYER, HEAD_WIDTH = 32, 32
"""Width and head width of the ladder: `n_embd` is the first times the depth, so there are as many heads as layers"""

ALPHA_DEPTH = 0.45
"""Initial residual step times depth on the ladder"""

TOKENS_PER_PARAMETER = 20
"""Training tokens on the ladder for each entry of a hidden matrix"""

VALIDATIONS, MEASUREMENTS = 10, 25
"""Number of validations, and about that of measurements of telemetry, in a run of the ladder"""

RUNGS: dict[str, tuple[int, int, int]] = {
    "rung-1": (2, 128, 8),
    "rung-2": (3, 128, 16),
    "rung-3": (4, 256, 16),
    "rung-4": (6, 256, 32),
}
"""Depth, tokens per sequence and sequences per step of each rung of the ladder"""


def rung(depth: int, seq_len: int, batch_size: int) -> dict[str, Any]:
    """Return the fields of a rung: all but its depth, sequences and batches follows from one rule.

    Its tokens are TOKENS_PER_PARAMETER times the entries of its hidden matrices, with steps rounded to VALIDATIONS;
    telemetry comes at the largest prime number of steps that gives MEASUREMENTS. Steps are
    compiled: one or two runs repay it (`benchmarks/compilation.py`).
    """
    width = WIDTH_PER_LAYER * depth
    model: dict[str, Any] = dict(n_layer=depth, n_embd=width, n_head=width // HEAD_WIDTH, seq_len=seq_len)
    tokens = TOKENS_PER_PARAMETER * hidden_entries(ModelConfig(**model))
    every = round(tokens / (seq_len * batch_size * VALIDATIONS))
    steps = every * VALIDATIONS
    return model | dict(
        alpha=ALPHA_DEPTH / depth, batch_size=batch_size, steps=steps, eval_every=every, eval_tokens=32_768,
        telemetry_every=largest_prime(steps // MEASUREMENTS), schedule="linear", compile=True,
    )  # fmt: skip


def largest_prime(limit: int) -> int:
    """Return the largest prime up to `limit`, which is at least 2.

    >>> largest_prime(76)
    73
    """
    return next(n for n in range(limit, 1, -1) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    **{name: rung(*size) for name, size in RUNGS.items()},
    "paper": dict(
        arch="ngpt", optimizer="adam", aux_lr_ratio=1.0, lazy_proj_freq=1, schedule="cosine", grad_clip=1.0,
    ),
    "trinity": dict(
        n_layer=3, n_embd=243, n_head=9, seq_len=81, batch_size=27, steps=2000, eval_every=200, ns_steps=10,
    ),
    "155m": dict(
        n_layer=11, n_embd=768, n_head=6, seq_len=128, batch_size=32, steps=400, eval_tokens=262_144,
        eval_every=100, aux_lr=0.003, schedule="linear", data="fineweb10b", dtype="bfloat16", compile=True,
    ),
    "155m-literal": dict(
        arch="gated-literal", n_layer=11, n_embd=768, n_head=6, seq_len=128, batch_size=32, steps=400,
        eval_tokens=262_144, eval_every=100, data="fineweb10b", lr=0.003, aux_lr_ratio=0.3, nesterov=False,
        orthogonalizer="newton-schulz-literal", polar_dtype="bfloat16", adjust_lr_fn="none", adam_beta2=0.999,
    ),
}  # fmt: skip
"""Each preset as its differences from the field defaults."""


def resolve(preset: str = "tiny", *, seed: int = 0, **overrides: Any) -> RunConfig:
    """Return the configuration of a preset with some of its fields replaced; field names are unique over all sections.

    Decides what "auto" and fields not given stand for, looking at the disk for the tokenizer. Raises InputError for a
    combination that is refused (`ngpt.refusals`), which includes flags given without effect.

    >>> resolve("tiny", optimizer="adam", n_layer=2).model.n_layer
    2
    """
    require(preset in PRESETS, f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    owner = {field.name: section for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)}
    unknown = sorted(set(overrides) - set(owner))
    require(not unknown, f"unknown configuration field: {', '.join(unknown)}")

    values: dict[str, Any] = {**PRESETS[preset], **overrides}
    values.setdefault("arch", ModelConfig.arch)
    values.setdefault("optimizer", OptimConfig.optimizer)
    if is_optimizer(values["optimizer"]):
        values |= {**entry(values["optimizer"]).defaults.get(preset, {}), **overrides}
        rated = "lr" in overrides or preset in entry(values["optimizer"]).defaults
        require(rated, f"--optimizer {values['optimizer']} has no default rate: give --lr")
    values["optimizer_args"] = canonical(values.get("optimizer_args", ""))
    if values["optimizer"] == "muon":
        values.setdefault("polar_dtype", values.get("dtype", TrainConfig.dtype))
    if "alpha" not in overrides and values["arch"] == "ngpt":
        values["alpha"] = 0.05  # arXiv 2410.01131, table 1: of the order of 1 / n_layer
    if "logit_scale_init" not in values and values["arch"] == "ngpt":
        values["logit_scale_init"] = 1.0  # the same table
    if values.setdefault("schedule", OptimConfig.schedule) in DECAYING["schedule"]:
        values.setdefault("decay_share", OptimConfig(schedule=values["schedule"]).resolved_decay_share)
    if values.get("tokenizer", "auto") == "auto":
        values["tokenizer"] = default_tokenizer(values.get("data", DataConfig.data))

    of: dict[str, Any] = {name: {key: values[key] for key in values if owner[key] == name} for name in SECTIONS}
    sections: dict[str, Any] = {name: kind(**of[name]) for name, kind in SECTIONS.items()}
    config = RunConfig(preset=preset, seed=seed, **sections)
    check(flatten(config), RunConfig, *SECTIONS.values(), given=overrides)
    return config


def default_tokenizer(data: str) -> Literal["bytes", "gpt2", "patches"]:
    """Return "patches" for automata, "gpt2" for fineweb10b and token shards, else "bytes".

    A file that is not there is judged by its name: its run will be refused. Raises InputError for one that is there
    and cannot be read.
    """
    if is_automaton(data):
        return "patches"
    named = data in ("stdlib", "fineweb10b") or data.startswith("hf:")
    if not named and not os.path.lexists(data):
        return "gpt2" if data.endswith(".bin") else "bytes"
    return "gpt2" if source_of(data).holds_tokens else "bytes"
