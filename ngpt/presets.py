"""From a preset and the fields that differ from it to a whole configuration. No torch."""

import dataclasses
from typing import Any

from ngpt.config import (
    SECTIONS,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    default_tokenizer,
    flag_name,
    flatten,
    require,
)

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "trinity": dict(
        n_layer=3, n_embd=243, n_head=9, seq_len=81, batch_size=27, steps=2000, eval_every=200, ns_steps=10,
    ),
    "155m": dict(
        n_layer=11, n_embd=768, n_head=6, seq_len=128, batch_size=32, steps=400, eval_tokens=262_144,
        eval_every=100, aux_lr=0.003, data="fineweb10b", dtype="bfloat16", compile=True,
    ),
    "155m-literal": dict(
        arch="gated-literal", n_layer=11, n_embd=768, n_head=6, seq_len=128, batch_size=32, steps=400,
        eval_tokens=262_144, eval_every=100, data="fineweb10b", lr=0.003, aux_lr_ratio=0.3, nesterov=False,
        orthogonalizer="newton-schulz-cubic", adjust_lr_fn="none",
    ),
}  # fmt: skip
"""Each preset as its difference to the field defaults."""

PRESET_LR: dict[tuple[str, str], float] = {
    ("tiny", "muon"): 0.03,
    ("tiny", "adam"): 0.01,
    ("trinity", "muon"): 0.01,
    ("trinity", "adam"): 0.003,
    ("155m", "muon"): 0.01,
    ("155m", "adam"): 0.001,
    ("155m-literal", "muon"): 0.003,
    ("155m-literal", "adam"): 0.0005,
}
"""The rate of the hidden matrices when --lr is not given."""

NO_EFFECT: dict[str, tuple[str, str, frozenset[str]]] = {
    # field: (deciding field, what a message calls it, values of it under which the field does nothing)
    "alpha": ("arch", "--arch", frozenset({"gpt"})),
    "gate_init": ("arch", "--arch", frozenset({"ngpt", "gpt"})),
    "lazy_proj_freq": ("arch", "--arch", frozenset({"gpt"})),
    "decay_share": ("schedule", "--schedule", frozenset({"constant", "cosine", "linear"})),
    "lr_floor": ("schedule", "--schedule", frozenset({"constant"})),
    **{
        field: ("optimizer", "--optimizer", frozenset({"adam"}))
        for field in ("momentum", "momentum_start", "momentum_warmup_steps", "nesterov", "orthogonalizer", "ns_steps",
                      "polar_dtype", "adjust_lr_fn", "match_step", "geodesic_muon", "tangent", "momentum_transport",
                      "normuon", "beta2", "cautious_wd", "nan_fallback")
    },
}  # fmt: skip
"""Flags that would do nothing under another flag's value. Giving one is refused: a flag without effect is a lie."""


def resolve(preset: str = "tiny", *, seed: int = 0, **overrides: Any) -> RunConfig:
    """A whole configuration from a preset and the fields that differ from it; every field name is unique.

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
    if "lr" not in overrides:
        values["lr"] = PRESET_LR[preset, values["optimizer"]]
    if values["optimizer"] == "muon":
        values.setdefault("polar_dtype", values.get("dtype", TrainConfig.dtype))
    if "alpha" not in values and values["arch"] == "ngpt":
        values["alpha"] = 0.05  # arXiv 2410.01131, table 1: of the order of 1 / n_layer
    if values.get("tokenizer", "auto") == "auto":
        values["tokenizer"] = default_tokenizer(values.get("data", DataConfig.data))

    nested: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        nested[owner[name]][name] = value
    config = RunConfig(
        preset=preset,
        seed=seed,
        model=ModelConfig(**nested["model"]),
        data=DataConfig(**nested["data"]),
        optim=OptimConfig(**nested["optim"]),
        train=TrainConfig(**nested["train"]),
    )
    flat = flatten(config)
    for name in overrides:
        if name in NO_EFFECT:
            decider, flag, idle = NO_EFFECT[name]
            require(flat[decider] not in idle, f"{flag_name(name)} has no effect with {flag} {flat[decider]}")
    require(
        "momentum_warmup_steps" not in overrides or config.optim.momentum_start is not None,
        "--momentum-warmup-steps has no effect without --momentum-start",
    )
    require(
        "beta2" not in overrides or config.optim.normuon is not None or config.optim.nan_fallback is not None,
        "--beta2 has no effect without --normuon or --nan-fallback normuon",
    )
    require(
        "eval_tokens" not in overrides or config.train.overfit_windows is None,
        "--eval-tokens has no effect with --overfit-windows: validation is on all of them",
    )
    require(
        "adjust_lr_fn" not in overrides or config.optim.geodesic_muon != "lr" or config.optim.cautious_wd,
        "--adjust-lr-fn has no effect with --geodesic-muon lr: every unit vector rotates by --lr",
    )
    require(
        "adjust_lr_fn" not in overrides or config.optim.match_step != "angle",
        "--adjust-lr-fn has no effect with --match-step angle: a matrix's mean rotation is --lr whatever its shape",
    )
    require(
        "ns_steps" not in overrides or config.optim.orthogonalizer != "svd",
        "--ns-steps has no effect with --orthogonalizer svd",
    )
    require(
        not ("aux_lr" in overrides and config.optim.aux_lr_ratio is not None),
        "--aux-lr has no effect with --aux-lr-ratio",
    )
    require(
        "shards" not in overrides or config.data.data == "fineweb10b",
        f"--shards has no effect with --data {config.data.data}",
    )
    require(
        "steps" not in overrides or config.train.time_budget_seconds is None,
        "--steps has no effect with --time-budget-seconds",
    )
    return config
