"""Which optimizer updates what: every trained parameter once, and Muon only the hidden matrices."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from oracles import optimizers as oracle
from torch import nn

from ngpt.config import RunConfig
from ngpt.model import build_model
from ngpt.optim.build import Optimizers, build_optimizers
from ngpt.optim.muon import SimpleMuon
from ngpt.presets import resolve

ARCHS = ["gated-ngpt", "ngpt", "gpt", "gated-literal"]
MATRICES = {"q", "k", "v", "o", "u", "g", "down", "qkv", "fc1", "fc2"}
"""Module names of the hidden matrices in all architectures"""


def setup(**overrides: Any) -> tuple[nn.Module, RunConfig]:
    config = resolve("tiny", **{"n_layer": 2, "n_embd": 24, "n_head": 4, "seq_len": 8, **overrides})
    return build_model(config.model, 17, seed=0), config


def random_gradients(model: nn.Module, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad}


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_trained_parameter_is_moved_once_and_hidden_means_the_hidden_matrices(arch: str, optimizer: str) -> None:
    model, config = setup(arch=arch, optimizer=optimizer)
    built = build_optimizers(model, config)
    hidden, aux = names_of(model, built.hidden), names_of(model, built.aux)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(hidden + aux) == sorted(trained)
    matrices = {name for name in trained if name.startswith("blocks.") and name.split(".")[-2] in MATRICES}
    assert set(hidden) == matrices and len(matrices) == 2 * (4 if arch == "gated-literal" else 7)
    assert isinstance(built.hidden, SimpleMuon if optimizer == "muon" else torch.optim.AdamW)
    assert isinstance(built.aux, torch.optim.AdamW) and built.all == {"hidden": built.hidden, "aux": built.aux}


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_options_reach_the_optimizers(optimizer: str) -> None:
    options: dict[str, Any] = {"lr": 0.02, "aux_lr": 0.005, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9}
    if optimizer == "muon":
        options |= {
            "momentum": 0.9, "nesterov": False, "ns_steps": 6, "orthogonalizer": "polar-express",
            "adjust_lr_fn": "match_rms_adamw", "dtype": "bfloat16",
        }  # fmt: skip
    model, config = setup(optimizer=optimizer, lazy_proj_freq=3, **options)
    built = build_optimizers(model, config)
    (aux,) = built.aux.param_groups
    assert (aux["lr"], aux["weight_decay"], aux["betas"]) == (0.005, 0.0, (0.8, 0.9))
    assert len(built.hidden.param_groups) == (2 if optimizer == "muon" else 1)
    for hidden in built.hidden.param_groups:
        assert (hidden["lr"], hidden["weight_decay"]) == (0.02, 0.1)
        if optimizer == "muon":
            assert hidden["polar_dtype"] == "bfloat16"
            for name in ("momentum", "nesterov", "ns_steps", "orthogonalizer", "adjust_lr_fn"):
                assert hidden[name] == options[name], name
        else:
            assert hidden["betas"] == (0.8, 0.9)
    assert built.projection.every == 3


ON_THE_SPHERE: list[dict[str, Any]] = [
    {"geodesic_muon": "lr-norm", "tangent": "before", "momentum_transport": "parallel", "match_step": "angle",
     "normuon": "rows", "beta2": 0.7, "weight_decay": 0.1, "cautious_wd": True},
    {"geodesic_muon": None, "tangent": "both", "momentum_transport": "project", "match_step": "rms",
     "normuon": "short-axis", "beta2": 0.8, "weight_decay": 0.2, "cautious_wd": False},
]  # fmt: skip


@pytest.mark.parametrize("options", ON_THE_SPHERE, ids=lambda options: str(options["geodesic_muon"]))
def test_options_of_the_sphere_reach_every_group(options: dict[str, Any]) -> None:
    model, config = setup(**options)
    for hidden in build_optimizers(model, config).hidden.param_groups:
        for name, value in options.items():
            assert hidden[name.removesuffix("_muon")] == value, name


@pytest.mark.parametrize("arch", ARCHS)
def test_every_matrix_is_in_the_group_of_its_axis(arch: str) -> None:
    """Columns for matrices that write to the residual stream, rows for those that read from it, as in the papers."""
    model, config = setup(arch=arch)
    built = build_optimizers(model, config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in built.hidden.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            dim = {"gpt": None, "gated-literal": -1}.get(arch, 0 if name.split(".")[-2] in ("o", "down") else -1)
            assert group["sphere_dim"] == dim, name
    dims = [group["sphere_dim"] for group in built.hidden.param_groups]
    assert dims == ([-1, 0] if arch in ("ngpt", "gated-ngpt") else [None if arch == "gpt" else -1])


@pytest.mark.parametrize(
    ("options", "leaving"),
    [({}, {"hidden", "embedding", "head"}), ({"geodesic_muon": "lr"}, {"embedding", "head"}),
     ({"geodesic_muon": "lr-norm"}, {"embedding", "head"}), ({"optimizer": "adam"}, {"hidden", "embedding", "head"})],
    ids=["linear", "fixed angle", "exponential map", "adam"],
)  # fmt: skip
def test_what_a_geodesic_step_moves_is_not_projected(options: dict[str, Any], leaving: set[str]) -> None:
    model, config = setup(**options)
    projection = build_optimizers(model, config).projection
    assert {str(role) for role, _, _ in projection.leaving} == leaving
    assert {str(role) for role, _, _ in projection.points} == {"hidden", "embedding", "head"}


@pytest.mark.parametrize(
    ("options", "unit"),
    [({}, False), ({"optimizer": "adam"}, False), ({"normuon": "rows", "match_step": "rms"}, False),
     ({"weight_decay": 0.1, "cautious_wd": True}, False), ({"geodesic_muon": "lr"}, True), ({"tangent": "after"}, True),
     ({"momentum_transport": "project"}, True), ({"match_step": "angle"}, True)],
    ids=str,
)  # fmt: skip
def test_the_earlier_attempts_model_starts_as_drawn_unless_a_step_needs_unit_vectors(
    options: dict[str, Any], unit: bool
) -> None:
    model, config = setup(arch="gated-literal", **options)
    drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    projection = build_optimizers(model, config).projection
    assert (projection.first, projection.every) == (1, 7)
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters()) == (not unit)
    assert (max(drift.item() for drift in projection.drift().values()) < 1e-6) == unit


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gpt"])
def test_every_other_model_is_first_projected_after_k_steps(arch: str) -> None:
    model, config = setup(arch=arch)
    assert build_optimizers(model, config).projection.first == 7


def test_what_adam_moves_is_projected_whatever_else_a_configuration_says() -> None:
    model, config = setup(optimizer="adam")
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, geodesic_muon="lr"))
    assert len(build_optimizers(model, config).projection.leaving) == 2 * 7 + 2


def test_the_other_rate_may_be_tied_to_the_main_one() -> None:
    model, config = setup(lr=0.02, aux_lr_ratio=0.3)
    assert build_optimizers(model, config).aux.param_groups[0]["lr"] == pytest.approx(0.006, rel=1e-15)


def rates(built: Optimizers) -> tuple[float, float]:
    return built.hidden.param_groups[0]["lr"], built.aux.param_groups[0]["lr"]


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_the_schedule_moves_all_rates_together(ratio: float | None, optimizer: str) -> None:
    tied = {"aux_lr": 0.004} if ratio is None else {"aux_lr_ratio": ratio}
    model, config = setup(optimizer=optimizer, lr=0.02, schedule="linear", lr_floor=0.5, warmup_steps=2, **tied)
    built = build_optimizers(model, config)
    peak = (0.02, 0.004 if ratio is None else 0.01)
    for step, progress, factor in [(0, 0.0, 0.5), (1, 0.2, 0.9), (50, 0.5, 0.75), (99, 1.0, 0.5), (1, 0.2, 0.9)]:
        built.schedule(step=step, progress=progress)
        assert rates(built) == pytest.approx([rate * factor for rate in peak], rel=1e-14)


def test_the_schedule_sets_muons_momentum() -> None:
    model, config = setup(momentum_start=0.85, momentum=0.95, momentum_warmup_steps=10)
    built = build_optimizers(model, config)
    for step, momentum in ((0, 0.85), (5, 0.9), (10, 0.95), (99, 0.95)):
        built.schedule(step=step, progress=0.0)
        assert built.hidden.param_groups[0]["momentum"] == pytest.approx(momentum, rel=1e-14)
    adam_model, adam_config = setup(optimizer="adam")
    adam = build_optimizers(adam_model, adam_config)
    adam.schedule(step=0, progress=0.0)
    assert "momentum" not in adam.hidden.param_groups[0]


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("arch", ["gated-ngpt", "gated-literal"])
def test_a_step_is_the_oracles_for_every_parameter(arch: str, optimizer: str) -> None:
    muon = {"momentum": 0.95, "nesterov": True, "orthogonalizer": "newton-schulz", "ns_steps": 5}
    model, config = setup(
        arch=arch, optimizer=optimizer, lr=0.01, aux_lr=0.003, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95,
        dtype="float32", **(muon | {"adjust_lr_fn": "original"} if optimizer == "muon" else {}),
    )  # fmt: skip
    built = build_optimizers(model, config)
    hidden = set(names_of(model, built.hidden))
    start = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    gradients = [random_gradients(model, seed) for seed in range(3)]
    for step in gradients:
        for name, gradient in step.items():
            model.get_parameter(name).grad = torch.tensor(gradient, dtype=torch.float32)
        built.move()
        model.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.item() == start[name]
            continue
        given = [step[name] for step in gradients]
        if optimizer == "muon" and name in hidden:
            want = oracle.muon(
                start[name], given, lr=0.01, momentum=0.95, nesterov=True, weight_decay=0.1, adjust_lr_fn="original",
                orthogonalize=lambda G: oracle.polynomial_polar(G, [(3.4445, -4.7750, 2.0315)] * 5),
            )[-1]  # fmt: skip
        else:
            lr, decay = (0.01, 0.1) if name in hidden else (0.003, 0.0)
            want = oracle.adamw(start[name], given, lr=lr, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=decay)[-1]
        # float32: three roundings of a weight of order 1, and the steps, of order 0.01, with a part of
        # Newton-Schulz's growth of 485 roundings
        largest = max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(
            parameter.detach(), want, rtol=0, atol=8 * torch.finfo(torch.float32).eps * largest, err_msg=name
        )


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_the_frozen_scale_is_never_touched(optimizer: str) -> None:
    model, config = setup(arch="gated-literal", optimizer=optimizer)
    built = build_optimizers(model, config)
    assert "logit_scale" not in names_of(model, built.hidden) + names_of(model, built.aux)
    assert not model.logit_scale.requires_grad and model.logit_scale.item() == 15.0


@pytest.mark.parametrize("name", ["blocks.0.attention.q.weight", "head.weight", "blocks.1.attention_step.gate"])
def test_a_parameter_that_would_be_left_out_is_an_error(name: str) -> None:
    model, config = setup()
    model.get_parameter(name).requires_grad_(False)
    with pytest.raises(ValueError, match="exactly once"):
        build_optimizers(model, config)


def test_a_model_without_matrices_is_an_error() -> None:
    model, config = setup()
    with pytest.raises(ValueError, match="exactly once"):
        build_optimizers(model.embedding, config)
