"""`--tail-ema-steps`: what is evaluated, and that training never sees it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import outcome, rows, small, start

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.training.checkpoint import read_tensors
from ngpt.training.record import WEIGHTS, read_record
from ngpt.training.tail_ema import TailEma

OPTIM = OptimConfig(tail_ema_steps=4, tail_ema_weight=0.3, tail_ema_start=0.5)


def test_the_average_and_what_is_evaluated_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    path = rng.normal(size=(10, 3, 4))
    parameter = torch.nn.Parameter(torch.tensor(path[0]))
    average = TailEma(OPTIM, {"W": parameter})
    for number, W in enumerate(path):
        with torch.no_grad():
            parameter.copy_(torch.tensor(W))
        average.after_step((number + 1) / 10)
        assert bool(average.tensors) == (number >= 4)
    E = path[4]
    for W in path[4:]:
        E = 0.75 * E + 0.25 * W
    with average.mixed():
        np.testing.assert_allclose(parameter.detach().numpy(), 0.7 * path[-1] + 0.3 * E, atol=1e-14)
    assert np.array_equal(parameter.detach().numpy(), path[-1]), "restored to the bit"
    average.apply()
    np.testing.assert_allclose(parameter.detach().numpy(), 0.7 * path[-1] + 0.3 * E, atol=1e-14)


def test_before_its_start_and_without_it_nothing_is_mixed() -> None:
    for optim in (OptimConfig(), OPTIM):
        parameter = torch.nn.Parameter(torch.ones(2))
        average = TailEma(optim, {"W": parameter})
        average.after_step(0.4)
        with average.mixed():
            assert parameter.equal(torch.ones(2))
        average.apply()
        assert parameter.equal(torch.ones(2)) and not average.tensors


def finals(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / WEIGHTS)[0]


def test_training_never_sees_it_and_the_end_is_the_mixture(data: str, tmp_path: Path) -> None:
    plain, _ = start(small(data), tmp_path / "plain", keep_weights=True)
    mixed, _ = start(small(data, tail_ema_steps=3, tail_ema_start=0.5), tmp_path / "mixed", keep_weights=True)
    both = list(zip(rows(plain), rows(mixed), strict=True))
    for one, other in both:
        assert one["loss"] == other["loss"] and one["grad_norm"] == other["grad_norm"]
        measured = "val_loss" in one
        assert not measured or (one["val_loss"] == other["val_loss"]) == (one["step"] < 6)
    assert any("val_loss" in one for one, _ in both if one["step"] < 6), "one validation came before"
    weights, record = finals(mixed), read_record(mixed)
    assert record.final_val_loss != read_record(plain).final_val_loss
    apart = max(float((weights[name] - tensor).abs().max()) for name, tensor in finals(plain).items())
    assert apart > 1e-4
    for name in ("blocks.0.attention.q.weight", "embedding.weight"):
        assert name in weights and (weights[name].norm(dim=-1) - 1).abs().max() < 1e-6, "unit vectors again"


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_limits(data: str, tmp_path: Path, weight: float) -> None:
    """Without weight it is no average; with all of it and an average over one step, neither."""
    steps = 1 if weight else 5
    config = small(data, tail_ema_steps=steps, tail_ema_weight=weight, tail_ema_start=0.0)
    plain, mixed = outcome(start(small(data), tmp_path / "a")[0]), outcome(start(config, tmp_path / "b")[0])
    assert plain == mixed


@pytest.mark.parametrize(
    "fields",
    [{}, {"geodesic_muon": "lr-norm"}, {"geodesic_muon": "lr"}, {"optimizer": "ngpt.rules:AngularMuown"},
     {"constraint": "frobenius"}],
    ids=str,
)  # fmt: skip
def test_what_is_evaluated_and_kept_is_projected(data: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    """What a step keeps on the sphere by itself is not on it any more after it is mixed."""
    config = small(data, tail_ema_steps=20, tail_ema_start=0.0, lr=0.1, **{"lazy_proj_freq": 5} | fields)
    weights = finals(start(config, tmp_path / "runs", keep_weights=True)[0])
    for name, tensor in weights.items():
        spec = parameter_specs(build_model(config.model, 256, seed=0))[name]
        if spec.sphere_dim is not None and not (spec.role == Role.HIDDEN and "constraint" in fields):
            assert (tensor.norm(dim=spec.sphere_dim) - 1).abs().max() < 1e-6, name
        elif spec.role == Role.HIDDEN:
            vectors = tensor.numel() / tensor.shape[spec.sphere_dim]  # type: ignore[index]
            assert float(tensor.norm()) == pytest.approx(vectors**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "why"),
    [({"tail_ema_weight": 0.5}, "--tail-ema-weight has no effect without --tail-ema-steps"),
     ({"tail_ema_start": 0.5}, "--tail-ema-start has no effect without --tail-ema-steps"),
     ({"tail_ema_steps": 0}, "--tail-ema-steps must be positive"),
     ({"tail_ema_steps": 5, "tail_ema_weight": 1.5}, r"--tail-ema-weight must lie in \[0, 1\]"),
     ({"tail_ema_steps": 5, "tail_ema_start": 1.0}, r"--tail-ema-start must lie in \[0, 1\)")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(data: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        small(data, **given)
