"""Each weight lands on its own sphere, every K steps, and a look at the projected weights leaves no trace."""

import math

import numpy as np
import pytest
import torch
from oracles import sphere as oracle
from torch import Tensor, nn

from ngpt.config import resolve
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.optim.projection import LazyProjection

COLUMNS = ("attention.o.weight", "mlp.down.weight")
ROWS = ("attention.q.weight", "attention.k.weight", "attention.v.weight", "mlp.u.weight", "mlp.g.weight")
LITERAL_ROWS = ("qkv.weight", "o.weight", "fc1.weight", "fc2.weight")
EPS = torch.finfo(torch.float32).eps


def axis(arch: str, name: str) -> int | None:
    """The axis of unit vectors by the tables of the papers, not by the model's own declaration."""
    if arch == "gpt" or not name.endswith("weight"):
        return None
    if name in ("embedding.weight", "head.weight", "position.weight"):
        return -1
    if arch == "gated-literal":
        assert name.endswith(LITERAL_ROWS)
        return -1
    assert name.endswith(ROWS + COLUMNS)
    return 0 if name.endswith(COLUMNS) else -1


def loose(arch: str, every: int = 1) -> tuple[nn.Module, LazyProjection]:
    """A model whose parameters are nowhere near the sphere."""
    config = resolve("tiny", arch=arch, n_layer=2, n_embd=24, n_head=4, seq_len=8)
    model = build_model(config.model, 17, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + 0.5)
    return model, LazyProjection(model, parameter_specs(model), every=every)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt", "gated-literal", "gpt"])
def test_each_parameter_lands_along_its_own_axis_and_no_other_moves(arch: str) -> None:
    model, projection = loose(arch)
    before = weights(model)
    projection.project()
    for name, got in weights(model).items():
        dim = axis(arch, name)
        if dim is None:
            assert torch.equal(got, before[name]), name
        else:
            want = oracle.project(before[name].numpy(), dim)
            np.testing.assert_allclose(got, want, rtol=4 * EPS, err_msg=name)  # one norm, one quotient
            assert not np.allclose(got, oracle.project(before[name].numpy(), -1 - dim), rtol=0.01), name


@pytest.mark.parametrize("every", [1, 3, 7])
def test_projects_after_every_so_many_steps_counted_from_the_start(every: int) -> None:
    model, projection = loose("gated-ngpt", every)
    projected = []
    for step in range(1, 15):
        with torch.no_grad():
            model.head.weight.mul_(2.0)
        projection.after_step(step)
        if projection.drift() < 8 * EPS:
            projected.append(step)
    assert projected == list(range(every, 15, every))


@pytest.mark.parametrize("leave", ["normally", "by an error"])
def test_weights_are_projected_inside_and_restored_to_the_bit_after(leave: str) -> None:
    model, projection = loose("ngpt")
    before = weights(model)
    data = [parameter.data_ptr() for parameter in model.parameters()]
    try:
        with projection.projected():
            assert projection.drift() < 8 * EPS
            inside = weights(model)
            if leave == "by an error":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not same(inside, before) and same(weights(model), before)
    assert [parameter.data_ptr() for parameter in model.parameters()] == data
    projection.project()
    assert same(weights(model), inside)


@pytest.mark.parametrize(("name", "dim"), [("head.weight", 0), ("blocks.1.mlp.down.weight", 1)])
@pytest.mark.parametrize("factor", [0.75, 1.5])
def test_drift_is_the_largest_distance_from_the_sphere(name: str, dim: int, factor: float) -> None:
    model, projection = loose("gated-ngpt")
    projection.project()
    assert projection.drift() < 8 * EPS
    weight = model.get_parameter(name)
    with torch.no_grad():
        weight.select(dim, 3).mul_(factor)
    assert projection.drift() == pytest.approx(abs(factor - 1), abs=8 * EPS)


def test_a_projection_of_the_schedule_keeps_the_drift_that_it_removed() -> None:
    model, projection = loose("gated-ngpt", every=2)
    projection.project()
    assert projection.removed_drift is None
    for step, factor, removed in ((1, 1.5, None), (2, 0.5, 0.25), (3, 4.0, 0.25), (4, 0.5, 1.0)):
        with torch.no_grad():
            model.head.weight.mul_(factor)
        projection.after_step(step)
        kept = projection.removed_drift
        assert kept is None if removed is None else kept.item() == pytest.approx(removed, abs=8 * EPS)


def test_the_control_has_no_sphere_to_drift_from() -> None:
    model, projection = loose("gpt")
    assert projection.points == [] and projection.drift() == 0.0


@pytest.mark.parametrize("place", [0, -1])
def test_drift_does_not_hide_a_weight_that_is_not_a_number(place: int) -> None:
    model, projection = loose("ngpt")
    with torch.no_grad():
        projection.points[place][1][0, 0] = math.nan
    assert math.isnan(projection.drift())


def test_projection_is_no_part_of_the_graph() -> None:
    model, projection = loose("ngpt")
    projection.project()
    with projection.projected():
        pass
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())
