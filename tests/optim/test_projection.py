"""Each weight is projected to its own sphere every K steps, and viewing the projected weights leaves no trace."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import sphere as oracle
from torch import Tensor, nn

from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.optim.projection import LazyProjection
from ngpt.presets import resolve

COLUMNS = ("attention.o.weight", "mlp.down.weight")
ROWS = ("attention.q.weight", "attention.k.weight", "attention.v.weight", "mlp.u.weight", "mlp.g.weight")
LITERAL_ROWS = ("qkv.weight", "o.weight", "fc1.weight", "fc2.weight")
EPS = torch.finfo(torch.float32).eps


def axis(arch: str, name: str) -> int | None:
    """Return the axis of unit vectors from the tables of the papers, not from the model's own declaration."""
    if arch == "gpt" or not name.endswith("weight"):
        return None
    if name in ("embedding.weight", "head.weight", "position.weight"):
        return -1
    if arch == "gated-literal":
        assert name.endswith(LITERAL_ROWS)
        return -1
    assert name.endswith(ROWS + COLUMNS)
    return 0 if name.endswith(COLUMNS) else -1


def loose(arch: str, every: int = 1, first: int | None = None) -> tuple[nn.Module, LazyProjection]:
    """Return a model whose parameters are far from the sphere."""
    config = resolve("tiny", arch=arch, n_layer=2, n_embd=24, n_head=4, seq_len=8)
    model = build_model(config.model, 17, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + 0.5)
    return model, LazyProjection(dict(model.named_parameters()), parameter_specs(model), every=every, first=first)


def largest(projection: LazyProjection) -> float:
    """Return the largest drift over all roles."""
    return max(drift.item() for drift in projection.drift().values())


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
@pytest.mark.parametrize("first", [None, 1, 5])
def test_projects_after_every_so_many_steps_counted_from_the_first(every: int, first: int | None) -> None:
    model, projection = loose("gated-ngpt", every, first)
    projected = []
    for step in range(1, 15):
        with torch.no_grad():
            model.head.weight.mul_(2.0)
        projection.after_step(step)
        if largest(projection) < 8 * EPS:
            projected.append(step)
    assert projected == list(range(first or every, 15, every))


@pytest.mark.parametrize("leave", ["normally", "by an error"])
def test_weights_are_projected_inside_and_restored_to_the_bit_after(leave: str) -> None:
    model, projection = loose("ngpt")
    before = weights(model)
    data = [parameter.data_ptr() for parameter in model.parameters()]
    try:
        with projection.projected():
            assert largest(projection) < 8 * EPS
            inside = weights(model)
            if leave == "by an error":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not same(inside, before) and same(weights(model), before)
    assert [parameter.data_ptr() for parameter in model.parameters()] == data
    projection.project()
    assert same(weights(model), inside)


@pytest.mark.parametrize(
    ("name", "role", "dim"), [("head.weight", "head", 0), ("embedding.weight", "embedding", 0),
                              ("blocks.1.mlp.down.weight", "hidden", 1), ("blocks.0.mlp.u.weight", "hidden", 0)]
)  # fmt: skip
@pytest.mark.parametrize("factor", [0.75, 1.5])
def test_drift_is_the_largest_distance_from_the_sphere_by_role(name: str, role: str, dim: int, factor: float) -> None:
    model, projection = loose("gated-ngpt")
    projection.project()
    assert largest(projection) < 8 * EPS
    weight = model.get_parameter(name)
    with torch.no_grad():
        weight.select(dim, 3).mul_(factor)
    assert set(projection.drift()) == {"hidden", "embedding", "head"}
    for where, drift in projection.drift().items():
        assert drift.item() == pytest.approx(abs(factor - 1) if where == role else 0.0, abs=8 * EPS)


def test_a_projection_of_the_schedule_keeps_the_drift_that_it_removed() -> None:
    model, projection = loose("gated-ngpt", every=2)
    projection.project()
    assert projection.seen_drift == {}
    for step, factor, seen in ((1, 1.5, None), (2, 0.5, 0.25), (3, 4.0, 0.25), (4, 0.5, 1.0)):
        with torch.no_grad():
            model.head.weight.mul_(factor)
        projection.after_step(step)
        kept = {str(role): drift.item() for role, drift in projection.seen_drift.items()}
        expected = {"hidden": 0.0, "embedding": 0.0, "head": seen}
        assert kept == ({} if seen is None else pytest.approx(expected, abs=8 * EPS))


def test_a_projection_nobody_looks_at_projects_the_same_and_keeps_no_drift() -> None:
    (looked, watched), (other, unwatched) = loose("gated-ngpt", every=2), loose("gated-ngpt", every=2)
    for step in (1, 2):
        watched.after_step(step)
        unwatched.after_step(step, measure=False)
    assert same(weights(looked), weights(other)) and largest(unwatched) < 8 * EPS
    assert watched.seen_drift and not unwatched.seen_drift


def test_the_control_has_no_sphere_to_drift_from() -> None:
    model, projection = loose("gpt")
    assert projection.points == [] and projection.drift() == {}
    projection.after_step(1)
    assert projection.seen_drift == {}


@pytest.mark.parametrize("place", [0, -1])
def test_drift_does_not_hide_a_weight_that_is_not_a_number(place: int) -> None:
    model, projection = loose("ngpt")
    with torch.no_grad():
        projection.points[place][1][0, 0] = math.nan
    assert math.isnan(projection.drift()[projection.points[place][0]])


def test_projection_is_no_part_of_the_graph() -> None:
    model, projection = loose("ngpt")
    projection.project()
    with projection.projected():
        pass
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


# --- where steps keep some parameters on the sphere ------------------------------------------------------------------


def geodesic(arch: str = "gated-ngpt", every: int = 3) -> tuple[nn.Module, LazyProjection]:
    """Return an off-sphere model whose hidden weights are declared to be kept on the sphere by their steps."""
    model, _ = loose(arch)
    leaving = {role for role in Role if role != Role.HIDDEN}
    return model, LazyProjection(dict(model.named_parameters()), parameter_specs(model), every=every, roles=leaving)


def hidden(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named.items() if name.startswith("blocks.")}


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt", "gated-literal"])
def test_only_what_leaves_the_sphere_is_projected(arch: str) -> None:
    model, projection = geodesic(arch)
    before = weights(model)
    projection.project()
    after = weights(model)
    assert same(hidden(after), hidden(before)), "to the bit"
    projected = {"embedding.weight", "head.weight"} | ({"position.weight"} if arch == "gated-literal" else set())
    assert {name for name in after if not torch.equal(after[name], before[name])} == projected
    assert {str(role): drift.item() < 8 * EPS for role, drift in projection.drift().items()} == {
        "hidden": False, "embedding": True, "head": True
    }  # fmt: skip


def test_the_start_projects_all_and_later_steps_do_not() -> None:
    model, projection = geodesic()
    projection.start()
    assert largest(projection) < 8 * EPS
    for name, weight in weights(model).items():
        dim = axis("gated-ngpt", name)
        if dim is not None:
            np.testing.assert_allclose(weight.norm(dim=dim), 1.0, rtol=4 * EPS, err_msg=name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    before = weights(model)
    for step in range(1, 7):
        projection.after_step(step)
        assert same(hidden(weights(model)), hidden(before))
        assert torch.equal(model.head.weight, before["head.weight"]) == (step < 3)
    seen = {str(role): drift.item() for role, drift in projection.seen_drift.items()}
    assert seen == pytest.approx({"hidden": 0.25, "embedding": 0.0, "head": 0.0}, abs=8 * EPS), "watched all the same"


def test_a_look_at_the_projected_weights_leaves_those_that_stay() -> None:
    model, projection = geodesic()
    before = weights(model)
    with projection.projected():
        assert same(hidden(weights(model)), hidden(before)) and not same(weights(model), before)
    assert same(weights(model), before)


@pytest.mark.parametrize(
    "optimizer", [{"geodesic_muon": "lr"}, {"geodesic_muon": "lr-norm"}, {}, {"optimizer": "adam"}], ids=str
)
@pytest.mark.parametrize("every", [2, 3])
def test_the_projection_frequency_acts_when_its_turn_comes(every: int, optimizer: dict[str, Any]) -> None:
    """It projects what leaves the sphere: with a geodesic step, everything except the hidden weights."""
    traces = []
    for frequency in (every, 100):
        config = resolve("tiny", n_layer=1, n_embd=24, n_head=4, seq_len=8, lazy_proj_freq=frequency, **optimizer)
        model = build_model(config.model, 17, seed=0)
        optimizers = build_optimizers(model, config)
        generator = torch.Generator().manual_seed(1)
        traces.append([])
        for step in range(1, 5):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizers.move()
            optimizers.projection.after_step(step)
            traces[-1].append(weights(model))
    for step, (one, other) in enumerate(zip(*traces, strict=True), 1):
        assert same(one, other) == (step < every)
        if "geodesic_muon" in optimizer:
            assert same(hidden(one), hidden(other))
        elif step >= every:
            assert not same(hidden(one), hidden(other))


@pytest.mark.parametrize(
    ("group", "every", "message"),
    [({}, 7, "no group of the optimizer has a sphere_dim"), ({"sphere_dim": None}, 7, "nothing to project"),
     ({"sphere_dim": 5}, 7, "sphere_dim=5 is no dimension"), *(({"sphere_dim": 0}, every, "every must be a positive")
     for every in (0, -3, 1.5, True, "7", None))],
)  # fmt: skip
def test_a_projection_that_would_do_nothing_is_refused(group: dict[str, Any], every: Any, message: str) -> None:
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(3, 4))], **group}], lr=0.1)
    with pytest.raises(ValueError, match=message):
        LazyProjection.of(optimizer, every=every)
