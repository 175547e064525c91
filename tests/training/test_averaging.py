"""`--tail-average`: what is read out, and that training never sees it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import outcome, rows, small, start

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.model.roles import Role
from ngpt.optim.projection import LazyProjection
from ngpt.training.averaging import TailAverage
from ngpt.training.checkpoint import read_tensors
from ngpt.training.record import WEIGHTS, read_record

OPTIM = OptimConfig(tail_average=4, tail_weight=0.3, tail_start=0.5)


def test_the_average_and_what_is_read_out_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    path = rng.normal(size=(10, 3, 4))
    parameter = torch.nn.Parameter(torch.tensor(path[0]))
    average = TailAverage(OPTIM, {"W": parameter})
    for number, W in enumerate(path):
        with torch.no_grad():
            parameter.copy_(torch.tensor(W))
        average.after_step((number + 1) / 10)
        assert bool(average.tensors) == (number >= 4)
    E = path[4]
    for W in path[4:]:
        E = 0.75 * E + 0.25 * W
    with average.read_out():
        np.testing.assert_allclose(parameter.detach().numpy(), 0.7 * path[-1] + 0.3 * E, atol=1e-14)
    assert np.array_equal(parameter.detach().numpy(), path[-1]), "restored to the bit"
    average.apply()
    np.testing.assert_allclose(parameter.detach().numpy(), 0.7 * path[-1] + 0.3 * E, atol=1e-14)


def test_before_its_start_and_without_it_nothing_is_mixed() -> None:
    for optim in (OptimConfig(), OPTIM):
        parameter = torch.nn.Parameter(torch.ones(2))
        average = TailAverage(optim, {"W": parameter})
        average.after_step(0.4)
        with average.read_out():
            assert parameter.equal(torch.ones(2))
        average.apply()
        assert parameter.equal(torch.ones(2)) and not average.tensors


def finals(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / WEIGHTS)[0]


def test_training_never_sees_it_and_the_end_is_the_mixture(data: str, tmp_path: Path) -> None:
    plain, _ = start(small(data), tmp_path / "plain", keep_weights=True)
    mixed, _ = start(small(data, tail_average=3, tail_start=0.5), tmp_path / "mixed", keep_weights=True)
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
    config = small(data, tail_average=steps, tail_weight=weight, tail_start=0.0)
    plain, mixed = outcome(start(small(data), tmp_path / "a")[0]), outcome(start(config, tmp_path / "b")[0])
    assert plain == mixed


def test_the_read_out_of_a_mean_of_unit_vectors_is_projected() -> None:
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 0.0]]))
    average = TailAverage(OptimConfig(tail_average=2, tail_weight=1.0, tail_start=0.0), {"W": parameter})
    average.after_step(0.5)
    with torch.no_grad():
        parameter.copy_(torch.tensor([[0.0, 1.0]]))
    average.after_step(1.0)
    projection = LazyProjection({}, {}, every=1)
    projection.points = projection.leaving = [(Role.HIDDEN, parameter, -1)]
    average.apply()
    assert parameter.equal(torch.tensor([[0.5, 0.5]]))
    projection.project()
    torch.testing.assert_close(parameter.detach(), torch.full((1, 2), 0.5**0.5))


@pytest.mark.parametrize(
    ("given", "why"),
    [({"tail_weight": 0.5}, "--tail-weight has no effect without --tail-average"),
     ({"tail_start": 0.5}, "--tail-start has no effect without --tail-average"),
     ({"tail_average": 0}, "--tail-average must be positive"),
     ({"tail_average": 5, "tail_weight": 1.5}, r"--tail-weight must lie in \[0, 1\]"),
     ({"tail_average": 5, "tail_start": 1.0}, r"--tail-start must lie in \[0, 1\)")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(data: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        small(data, **given)
