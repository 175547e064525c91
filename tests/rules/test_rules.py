"""The rules of `ngpt.rules` against float64 oracles, their limits, and what they do with nothing to go by."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import optimizers as muons
from oracles import rules as oracle
from oracles import sphere
from torch import Tensor, nn

from ngpt import polar, rules
from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.foreign import origin_of
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.trial import along_the_gradient, refusal, require_fit
from ngpt.rules import base

Array = np.ndarray
Options = dict[str, Any]

SHAPES = [((5, 9), -1), ((9, 5), -1), ((9, 5), 0), ((5, 9), 0), ((6, 6), -1)]
COUNT = 4
LR, MU = 0.1, 0.8


def points(shape: tuple[int, int], dim: int) -> Array:
    return sphere.project(np.random.default_rng(0).normal(size=shape), dim)


def gradients(shape: tuple[int, int], count: int = COUNT) -> list[Array]:
    rng = np.random.default_rng(1)
    lasting = rng.normal(size=shape)
    return [lasting + rng.normal(size=shape) for _ in range(count)]


def quintic(steps: int = 5) -> Callable[[Array], Array]:
    return lambda G: muons.polynomial_polar(G, [polar.QUINTIC] * steps)


def express(steps: int = 5) -> Callable[[Array], Array]:
    rows = polar.coefficients("polar-express", steps)
    return lambda G: muons.polynomial_polar(G, rows, safety=polar.POLAR_EXPRESS_SAFETY)


def draws(shape: tuple[int, int], signs: bool) -> list[Array]:
    """Return what the global generator gives in a run that starts with seed 0."""
    torch.manual_seed(0)
    found = [torch.rand(min(shape), dtype=torch.float64).numpy() for _ in range(COUNT)]
    return [np.where(r < 0.5, -1.0, 1.0) for r in found] if signs else found


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule with options, and its oracle as a function of weights, gradients and the dimension of the vectors."""

    kind: type[base.MatrixRule]
    options: Options
    want: Callable[[Array, list[Array], int], list[Array]]
    rounding: float = 1e-12
    """an approximate polar factor amplifies roundings"""

    def __str__(self) -> str:
        return "-".join([self.kind.__name__, *(f"{key}={value}" for key, value in self.options.items())])


def both(kind: type[base.MatrixRule], options: Options, want: Callable[..., list[Array]], **more: Any) -> list[Case]:
    """Return the cases of a rule with and without look-ahead."""
    return [
        Case(kind, {**options, "nesterov": nesterov, "momentum": MU},
             lambda W, G, dim, n=nesterov: want(W, G, dim, lr=LR, momentum=MU, nesterov=n), **more)
        for nesterov in (False, True)
    ]  # fmt: skip


POLAR = 2e-11
SLOW: Options = {"slow_momentum": 0.9, "slow_weight": 0.4}
AHEAD: Options = {"gamma": 0.7, "look_ahead": 0.9}
DECAY: Options = {"decay_scale": 0.5, "decay_degree": 0.7, "decay_after": 1}
CASES = [
    *both(rules.Nora, {}, lambda W, G, dim, **o: oracle.nora(W, G, dim=dim, **o)),
    *both(rules.Nora, {"axis": "rows"}, lambda W, G, dim, **o: oracle.nora(W, G, dim=-1, **o)),
    *both(rules.RMNP, {}, lambda W, G, dim, **o: oracle.rmnp(W, G, dim=dim, **o)),
    *both(rules.RMNP, {"axis": "rows"}, lambda W, G, dim, **o: oracle.rmnp(W, G, dim=-1, **o)),
    *both(rules.Signum, {}, lambda W, G, dim, **o: oracle.signum(W, G, dim=dim, **o)),
    *both(rules.Kaon, {}, lambda W, G, dim, **o: oracle.kaon(W, G, draws=draws(W.shape, False), **o)),
    *both(rules.Kaon, {"values": "signs"}, lambda W, G, dim, **o: oracle.kaon(W, G, draws=draws(W.shape, True), **o)),
    *both(rules.AngularMuown, DECAY, lambda W, G, dim, **o: oracle.angular_muown(
        W, G, dim=dim, orthogonalize=express(), **DECAY, **o), rounding=POLAR),
    *both(rules.TwoBufferMuon, SLOW, lambda W, G, dim, **o: oracle.two_buffer_muon(
        W, G, orthogonalize=quintic(), **SLOW, **o), rounding=POLAR),
    *both(rules.EmaNesterov, AHEAD, lambda W, G, dim, **o: oracle.ema_nesterov(
        W, G, dim=dim, orthogonalize=quintic(), **AHEAD, **o), rounding=POLAR),
    *both(rules.MuonH, {}, lambda W, G, dim, **o: oracle.muon_h(W, G, orthogonalize=quintic(), **o), rounding=POLAR),
    *both(rules.MuonSphere, {"c": 1.5, "power_steps": 2000}, lambda W, G, dim, **o: oracle.muon_sphere(
        W, G, c=1.5, orthogonalize=express(), **o), rounding=POLAR),
]  # fmt: skip

KINDS = list(dict.fromkeys(case.kind for case in CASES))


def ours(kind: type[torch.optim.Optimizer], W: Array, G: list[Array], dim: int, **options: Any) -> list[Array]:
    """Return the weights after each step of an optimizer."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.tensor(W))
    optimizer = kind([{"params": [parameter], "sphere_dim": dim}], lr=LR, **options)  # type: ignore[call-arg]
    found = []
    for gradient in G:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        found.append(parameter.detach().numpy().copy())
    return found


def error(got: list[Array], want: list[Array]) -> float:
    return float(np.abs(np.stack(got) - np.stack(want)).max())


def difference(case: Case) -> float:
    """Return the largest error of a case over the shapes."""
    return max(
        error(ours(case.kind, points(shape, dim), gradients(shape), dim, **case.options),
              case.want(points(shape, dim), gradients(shape), dim))
        for shape, dim in SHAPES
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_is_its_oracle(case: Case) -> None:
    assert difference(case) < case.rounding


def test_every_rule_has_an_oracle_and_a_description() -> None:
    kinds = {getattr(rules, name) for name in rules.__all__} - {base.MatrixRule}
    assert kinds == {case.kind for case in CASES}
    for kind in kinds:
        assert kind.__doc__ and "Source: " in kind.__doc__


# --- mutations -------------------------------------------------------------------------------------------------------


def no_tangent(x: Tensor, v: Tensor, *, dim: int) -> Tensor:
    return v


def wrong_axis(group: base.Group) -> int:
    return -1 if base.line_dim(group) in (0, -2) else -2


MUTATIONS: list[tuple[type[base.MatrixRule], str, Any]] = [
    (rules.Nora, "ngpt.sphere.tangent", no_tangent),
    (rules.Nora, "ngpt.sphere.project", lambda x, *, dim: x),
    (rules.Nora, "ngpt.rules.nora.line_dim", wrong_axis),
    (rules.RMNP, "ngpt.rules.rmnp.line_dim", wrong_axis),
    (rules.RMNP, "ngpt.sphere.project", lambda x, *, dim: x),
    (rules.Signum, "torch.Tensor.sign", lambda x: x),
    (rules.Kaon, "torch.rand", lambda shape, **kw: torch.full(shape, 0.7, dtype=kw["dtype"])),
    (rules.AngularMuown, "ngpt.sphere.tangent", no_tangent),
    (rules.AngularMuown, "ngpt.sphere.retract", lambda x, v, *, dim: x + v),
    (rules.AngularMuown, "ngpt.rules.angular_muown.shape_factor", lambda shape, rule: 1.0),
    (rules.AngularMuown, "ngpt.rules.angular_muown.max", lambda a, b: 0),
    (rules.TwoBufferMuon, "ngpt.rules.two_buffer_muon.shape_factor", lambda shape, rule: 1.0),
    (rules.EmaNesterov, "ngpt.rules.ema_nesterov.shape_factor", lambda shape, rule: 1.0),
    (rules.EmaNesterov, "ngpt.sphere.tangent", no_tangent),
    (rules.EmaNesterov, "ngpt.sphere.retract", lambda x, v, *, dim: x + v),
    (rules.EmaNesterov, "ngpt.sphere.norm", lambda x, *, dim: torch.ones(())),
    (rules.MuonH, "ngpt.rules.muon_h.to_norm", lambda X, norm: X),
    (rules.MuonH, "ngpt.rules.muon_h.radius", lambda W, group: 1.0),
    (rules.MuonSphere, "ngpt.rules.muon_sphere.radius", lambda W, group: group["c"]),
    (rules.MuonSphere, "ngpt.rules.muon_sphere.largest_singular_value", lambda W, v, steps: (torch.ones(()), v)),
    *((kind, "torch.Tensor.lerp_", lambda M, G, w: M.add_(w * G)) for kind in KINDS),
    *((kind, "torch.Tensor.lerp_", lambda M, G, w: M.mul_(w).add_((1 - w) * G)) for kind in KINDS),
    *((kind, "torch.Tensor.lerp", lambda G, M, w: M) for kind in KINDS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "place", "mutation"), MUTATIONS,
    ids=[f"{kind.__name__}-{place.rpartition('.')[2]}-{i}" for i, (kind, place, _) in enumerate(MUTATIONS)],
)  # fmt: skip
def test_a_wrong_rule_is_rejected(
    kind: type[base.MatrixRule], place: str, mutation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in CASES if case.kind is kind]
    wanted = [[case.want(points(*at), gradients(at[0]), at[1]) for at in SHAPES] for case in cases]
    monkeypatch.setattr(place, mutation, raising=False)
    errors = [
        max(error(ours(kind, points(*at), gradients(at[0]), at[1], **case.options), want)
            for at, want in zip(SHAPES, of, strict=True))
        for case, of in zip(cases, wanted, strict=True)
    ]  # fmt: skip
    assert max(errors) > 1e-4


# --- limits ----------------------------------------------------------------------------------------------------------


def muon(W: Array, G: list[Array], dim: int, **options: Any) -> list[Array]:
    """Return the weights after each step of SimpleMuon."""
    given = {"momentum": MU, "weight_decay": 0.0, "polar_dtype": torch.float64, **options}
    return ours(SimpleMuon, W, G, dim, **given)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_a_slow_memory_without_weight_is_muon(shape: tuple[int, int], dim: int) -> None:
    W, G = points(shape, dim), gradients(shape)
    mixed = [ours(rules.TwoBufferMuon, W, G, dim, momentum=MU, slow_weight=weight) for weight in (0.0, 0.3)]
    assert error(mixed[0], muon(W, G, dim)) < POLAR < 1e-3 < error(mixed[1], muon(W, G, dim))


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_no_look_ahead_is_muon_and_it_fades_with_the_rate(shape: tuple[int, int], dim: int) -> None:
    W, G = points(shape, dim), gradients(shape)
    still = ours(rules.EmaNesterov, W, G, dim, momentum=MU, look_ahead=0.0)
    assert error(still, muon(W, G, dim)) < POLAR < 1e-3 < error(still, ours(rules.EmaNesterov, W, G, dim, momentum=MU))
    parameter = nn.Parameter(torch.tensor(W))
    optimizer = rules.EmaNesterov([{"params": [parameter], "sphere_dim": dim}], lr=LR)
    for gradient, rate in zip(G, (LR, LR, LR, 0.0), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(gradient)
        before = parameter.detach().clone()
        optimizer.step()
    assert (parameter.detach() - before).abs().max() < 1e-12, "at a rate of zero nothing is ahead any more"


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_angular_muown_without_its_schedule_is_muon_with_tangent_gradients_projected_at_each_step(
    shape: tuple[int, int], dim: int
) -> None:
    W, G = points(shape, dim), gradients(shape)
    parameter = nn.Parameter(torch.tensor(W))
    groups: Any = [{"params": [parameter], "sphere_dim": dim}]
    options: Options = {"tangent": "gradient", "orthogonalizer": "polar-express", "polar_dtype": torch.float64}
    reference = SimpleMuon(groups, lr=LR, momentum=MU, weight_decay=0.0, **options)
    want = []
    for gradient in G:
        parameter.grad = torch.tensor(gradient)
        reference.step()
        with torch.no_grad():
            parameter.copy_(torch.tensor(sphere.project(parameter.detach().numpy(), dim)))
        want.append(parameter.detach().numpy().copy())
    assert error(ours(rules.AngularMuown, W, G, dim, momentum=MU), want) < POLAR
    for degree, after, same in ((1.0, 0, False), (1.0, COUNT, True), (0.0, 0, True)):
        got = ours(rules.AngularMuown, W, G, dim, momentum=MU, decay_degree=degree, decay_after=after, decay_scale=0.5)
        assert (error(got, want) < POLAR) == same


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_nora_is_the_geodesic_step_without_a_polar_factor_to_second_order(shape: tuple[int, int], dim: int) -> None:
    W, (G, *_) = points(shape, dim), gradients(shape)
    errors = []
    for lr in (0.1, 0.01):
        parameter = nn.Parameter(torch.tensor(W))
        parameter.grad = torch.tensor(G)
        rules.Nora([{"params": [parameter], "sphere_dim": dim}], lr=lr).step()
        want = muons.geodesic_step(W, -G, lr, "lr", dim)
        errors.append(error([sphere.project(parameter.detach().numpy(), dim)], [want]))
    assert errors[1] < 1e-4 and errors[0] > 500 * errors[1], "third order: tan(lr) - lr"


def test_rows_and_vectors_differ_where_the_vectors_are_columns() -> None:
    for kind in (rules.Nora, rules.RMNP):
        for shape, dim in SHAPES:
            given = points(shape, dim), gradients(shape), dim
            one, other = (ours(kind, *given, axis=axis) for axis in ("rows", "vectors"))
            assert (error(one, other) > 1e-3) == (dim == 0)


def test_muon_h_keeps_the_norm_and_muon_sphere_the_largest_singular_value() -> None:
    W, G = points((9, 5), -1), gradients((9, 5), 20)
    norms = [np.linalg.norm(one) for one in ours(rules.MuonH, W, G, -1)]
    np.testing.assert_allclose(norms, 3.0, rtol=1e-12)
    assert np.ptp(np.linalg.norm(ours(rules.MuonH, W, G, -1)[-1], axis=1)) > 0.1, "and not that of its vectors"
    R, last = 2 * (9 / 5) ** 0.5, ours(rules.MuonSphere, W, G, -1)[-1]
    assert abs(np.linalg.norm(last, 2) - R) <= LR * R * 1.2


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_to_go_by_moves_nothing(case: Case) -> None:
    W = points((5, 9), -1)
    first, *rest = ours(case.kind, W, [np.zeros((5, 9))] * 3, -1, **case.options)
    assert np.isfinite(rest[-1]).all()
    np.testing.assert_allclose(rest[-1], first, atol=1e-12)  # MuonSphere first brings W to its sphere
    if case.kind is not rules.MuonSphere:
        np.testing.assert_allclose(first, W, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(rules.__all__) - {"MatrixRule"}))
def test_a_rule_passes_the_trial_and_descends(name: str) -> None:
    optimizer = f"ngpt.rules:{name}"
    assert refusal(optimizer, 0.01, "") is None
    assert along_the_gradient(optimizer, 0.01, "") < -0.3
    assert origin_of(optimizer).identity == optimizer, "its code is the run's code"


def test_random_signs_do_not_descend() -> None:
    assert abs(along_the_gradient("ngpt.rules:Kaon", 0.01, "values=signs")) < 0.15


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(rules.Nora, {"axis": "columns"}), (rules.RMNP, {"axis": "columns"}), (rules.Kaon, {"values": "normal"}),
     (rules.Signum, {"momentum": 1.0}), (rules.TwoBufferMuon, {"slow_weight": 2.0}), (rules.MuonSphere, {"c": 0.0}),
     (rules.TwoBufferMuon, {"slow_momentum": 1.0}), (rules.AngularMuown, {"decay_scale": -1.0}),
     (rules.EmaNesterov, {"gamma": 1.0}), (rules.EmaNesterov, {"look_ahead": -1.0})],
)  # fmt: skip
def test_a_wrong_argument_is_refused(kind: type[base.MatrixRule], wrong: Options) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind([nn.Parameter(torch.zeros(2, 3))], lr=0.1, **wrong)  # type: ignore[call-arg]


def test_another_constraint_beside_a_rule_that_stays_on_the_sphere_is_refused() -> None:
    for constraint, optimizer in (("none", "ngpt.rules:AngularMuown"), ("frobenius", "ngpt.rules:AngularMuown")):
        with pytest.raises(InputError, match=f"stays_on_sphere, so --constraint {constraint} has no effect"):
            require_fit(OptimConfig(optimizer=optimizer, lr=0.01, constraint=constraint))  # type: ignore[arg-type]
    require_fit(OptimConfig(optimizer="ngpt.rules:MuonH", lr=0.01, constraint="none"))


@pytest.mark.parametrize("name", ["MuonH", "MuonSphere"])
def test_a_rule_that_keeps_a_norm_of_its_own_needs_no_other(name: str) -> None:
    for constraint in ("vectors", "frobenius", "spectral"):
        with pytest.raises(InputError, match=f"{name}: it says keeps_norm, so it needs --constraint none"):
            require_fit(OptimConfig(optimizer=f"ngpt.rules:{name}", lr=0.01, constraint=constraint))  # type: ignore[arg-type]


def test_a_rule_whose_state_holds_places_cannot_be_rescaled() -> None:
    with pytest.raises(InputError, match="keeps_position, so its moves cannot be rescaled"):
        require_fit(OptimConfig(optimizer="ngpt.rules:EmaNesterov", lr=0.01, match_step="angle"))


@pytest.mark.parametrize("name", sorted({case.kind.__name__ for case in CASES}))
def test_without_unit_vectors_a_rule_that_needs_them_says_so(name: str) -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    parameter.grad = torch.ones(3, 4)
    optimizer = getattr(rules, name)([{"params": [parameter], "sphere_dim": None}], lr=0.1)
    if name in ("Kaon", "MuonSphere", "TwoBufferMuon"):
        optimizer.step()
    else:
        with pytest.raises(ValueError, match="this rule needs unit vectors, and the model has none"):
            optimizer.step()


def test_a_gradient_along_the_vectors_turns_none() -> None:
    """Its tangent part is rounding."""
    W = torch.tensor(points((5, 9), -1), dtype=torch.float32)
    parameter = nn.Parameter(W.clone())
    parameter.grad = 3.7 * W
    rules.Nora([{"params": [parameter], "sphere_dim": -1}], lr=0.03).step()
    assert (parameter.detach() - W).abs().max() < 1e-6


def test_power_iteration_recovers_from_a_vector_that_the_matrix_annihilates() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -1.0], [2.0, -2.0]]))
    optimizer = rules.MuonSphere([{"params": [parameter], "sphere_dim": -1}], lr=0.05)
    for seed in range(20):
        parameter.grad = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
    assert float(torch.linalg.matrix_norm(parameter.detach(), 2)) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("kind", [rules.Signum, rules.AngularMuown])
def test_a_closure_is_called_with_gradients_on_and_its_loss_returned(kind: type[base.MatrixRule]) -> None:
    W = nn.Parameter(torch.tensor(points((5, 9), -1)))
    rule = kind([{"params": [W], "sphere_dim": -1}], lr=0.1)

    def closure() -> float:
        loss = (W**3).sum()
        loss.backward()
        return loss.item()

    before = W.detach().clone()
    assert rule.step(closure) == pytest.approx(float((before**3).sum()))
    assert not torch.equal(before, W) and rule.step() is None
