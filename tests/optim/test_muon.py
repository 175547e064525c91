"""SimpleMuon equals torch.optim.Muon bit for bit and the float64 oracle in high precision; wrong steps are rejected."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from oracles import optimizers as oracle
from oracles import sphere as sphere_oracle
from torch import Tensor, nn
from torch.optim import _muon

from ngpt import polar, sphere
from ngpt.kernels import twins
from ngpt.model.layers import Linear
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim import steps
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.projection import LazyProjection

Array = np.ndarray
STEPS = 20
SHAPES = {"wide": (8, 16), "tall": (16, 8), "square": (12, 12)}
QUINTIC = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)

GROWTH = 485
"""3.4445^5, the amplification of a rounding by five Newton-Schulz steps along the smallest singular values"""


def sequence(shape: tuple[int, ...], *, seed: int = 0) -> tuple[Array, list[Array]]:
    """Return a weight with unit rows, and gradients with a constant part, so that momentum has a direction."""
    rng = np.random.default_rng(seed)
    lasting = rng.normal(size=shape)
    return sphere_oracle.project(rng.normal(size=shape), -1), [lasting + rng.normal(size=shape) for _ in range(STEPS)]


def tensors(arrays: Sequence[Array], dtype: torch.dtype) -> list[Tensor]:
    return [torch.tensor(array, dtype=dtype) for array in arrays]


def run(optimizer: torch.optim.Optimizer, gradients: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Return the weights of all parameters after each step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trace = []
    for step_gradients in gradients:
        for parameter, gradient in zip(parameters, step_gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        trace.append([parameter.detach().clone() for parameter in parameters])
    return trace


# --- torch.optim.Muon ------------------------------------------------------------------------------------------------

OPTIONS = [
    pytest.param({"nesterov": nesterov, "adjust_lr_fn": rule, "weight_decay": decay}, id=f"{nesterov}-{rule}-{decay}")
    for nesterov, rule, decay in itertools.product((True, False), (None, "original", "match_rms_adamw"), (0.0, 0.1))
]


def both(dtype: torch.dtype, options: dict[str, Any]) -> list[list[list[Tensor]]]:
    """Return the weights of SimpleMuon and torch's Muon, each with matrices of several shapes, two of them equal."""
    shapes = [(16, 32), (32, 16), (16, 32), (24, 24)]
    sequences = [sequence(shape, seed=seed) for seed, shape in enumerate(shapes)]
    gradients = [tensors(step, dtype) for step in zip(*(gradients for _, gradients in sequences), strict=True)]
    traces = []
    for kind in (SimpleMuon, torch.optim.Muon):
        parameters = [nn.Parameter(weight) for weight in tensors([weight for weight, _ in sequences], dtype)]
        traces.append(run(kind(parameters, lr=0.02, **options), gradients))
    return traces


def same_bits(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_is_torchs_muon_to_the_last_bit(
    dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.bfloat16 and not options["nesterov"]:
        # torch hands its momentum buffer itself to the orthogonalizer, whose .bfloat16() is then no copy and whose
        # division is in place: the buffer is rescaled to norm 1 at every step
        assert not same_bits(*both(dtype, options))
        original = _muon._zeropower_via_newtonschulz
        monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", lambda G, *rest: original(G.clone(), *rest))
    assert same_bits(*both(dtype, options))


# --- the float64 oracle ----------------------------------------------------------------------------------------------

StepFunction = Callable[[Array, list[Array]], list[Array]]
"""Maps a weight (m, n) and gradients to the weight after each step"""

PLAIN: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "adjust_lr_fn": None}


def newton_schulz(G: Array) -> Array:
    return oracle.polynomial_polar(G, [QUINTIC] * 5)


def agrees(before: Array, got: Array, want: Array, *, dim: int, rounding: float) -> bool:
    """Return whether the step from `before` has the wanted direction, length, and angle of every vector.

    `rounding` is the error of a step relative to its length; the cosine of its direction is off by half its square.
    """
    moved, wanted = got - before, want - before
    cosine = float((moved * wanted).sum() / (np.linalg.norm(moved) * np.linalg.norm(wanted)))
    length = float(np.linalg.norm(moved) / np.linalg.norm(wanted))
    turned, turn = (
        sphere_oracle.angle(*(sphere_oracle.project(W, dim) for W in (before, after)), dim) for after in (got, want)
    )
    return (
        1 - cosine <= max(rounding**2, 4 * np.finfo(np.float64).eps)
        and abs(length - 1) <= rounding
        and bool(np.abs(turned - turn).max() <= rounding * np.abs(turn).max())
    )


def agrees_with_oracle(
    step_function: StepFunction,
    shape: tuple[int, int] = SHAPES["wide"],
    *,
    project_dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    orthogonalize: Callable[[Array], Array] = newton_schulz,
    **options: Any,
) -> bool:
    """Return whether `step_function` matches the oracle, projected along `project_dim`, if given, after each step."""
    settings = {**PLAIN, **options}
    weight, gradients = sequence(shape)
    if project_dim is None:
        want = oracle.muon(weight, gradients, orthogonalize=orthogonalize, **settings)
    else:
        assert settings["weight_decay"] == 0.0, "then the updates do not depend on the weight"
        weight = sphere_oracle.project(weight, project_dim)
        sums = oracle.muon(0 * weight, gradients, orthogonalize=orthogonalize, **settings)
        want = [weight]
        for update in np.diff(np.stack([0 * weight, *sums]), axis=0):
            want.append(sphere_oracle.project(want[-1] + update, project_dim))
        del want[0]
    got = step_function(weight, gradients)
    # each orthogonalization is off by a part of GROWTH roundings; weights near 1 are stored with an error of eps / 2,
    # 50 times larger relative to a step of 0.02; both add up over the steps
    rounding = (GROWTH + 50) * float(torch.finfo(dtype).eps)
    starts = [weight, *want[:-1]]
    drift = (np.array(g) - w for g, w in zip([weight, *got[:-1]], starts, strict=True))
    return len(got) == len(want) and all(
        agrees(before, after - off, wanted, dim=-1 if project_dim is None else project_dim, rounding=rounding)
        for before, after, off, wanted in zip(starts, got, drift, want, strict=True)
    )


def simple_muon(*, dtype: torch.dtype = torch.float64, project_dim: int | None = None, **options: Any) -> StepFunction:
    """Return the actual optimizer and projection as a step function."""
    settings = {**PLAIN, **options}

    def steps_of(weight: Array, gradients: list[Array]) -> list[Array]:
        m, n = weight.shape
        layer = Linear(n, m, Role.HIDDEN, project_dim)
        layer.weight = nn.Parameter(torch.tensor(weight, dtype=dtype))
        optimizer = SimpleMuon([layer.weight], polar_dtype=dtype, **settings)
        on_sphere = LazyProjection(dict(layer.named_parameters()), parameter_specs(layer), every=1)
        trace = []
        for number, gradient in enumerate(gradients, start=1):
            layer.weight.grad = torch.tensor(gradient, dtype=dtype)
            optimizer.step()
            on_sphere.after_step(number)
            trace.append(layer.weight.detach().double().numpy().copy())
        return trace

    return steps_of


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_the_oracle(dtype: torch.dtype, options: dict[str, Any], shape: tuple[int, int]) -> None:
    assert agrees_with_oracle(simple_muon(dtype=dtype, **options), shape, dtype=dtype, **options)


@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_the_oracle_on_the_sphere(dtype: torch.dtype, shape: tuple[int, int], dim: int) -> None:
    options: dict[str, Any] = {"project_dim": dim, "weight_decay": 0.0}
    assert agrees_with_oracle(simple_muon(dtype=dtype, **options), shape, dtype=dtype, **options)


@pytest.mark.parametrize("method", ["polar-express", "newton-schulz-cubic", "svd"])
def test_agrees_with_the_oracle_for_every_orthogonalizer(method: Any) -> None:
    def reference(G: Array) -> Array:
        if method == "svd":
            return oracle.polar_exact(G)
        safety = 1.01 if method == "polar-express" else 1.0
        return oracle.polynomial_polar(G, polar.coefficients(method, 7), safety)

    step_function = simple_muon(orthogonalizer=method, ns_steps=7, adjust_lr_fn="none")
    assert agrees_with_oracle(step_function, orthogonalize=reference)  # a wide matrix: "none" is factor 1, as None is


def test_the_steps_write_to_no_argument() -> None:
    W, G, M = (torch.tensor(sequence((3, 4, 6), seed=seed)[0]) for seed in range(3))
    before = [W.clone(), G.clone(), M.clone()]
    for result in (
        steps.momentum(M, G, 0.9), steps.look_ahead(M, G, 0.9), steps.decay(W, 0.1, 0.5), steps.linear_move(W, G, 0.1)
    ):  # fmt: skip
        assert all(result.data_ptr() != tensor.data_ptr() for tensor in (W, G, M))
    assert all(torch.equal(a, b) for a, b in zip((W, G, M), before, strict=True))


def test_adjust_lr_none_leaves_a_tall_step_as_it_is() -> None:
    shape = SHAPES["tall"]
    assert agrees_with_oracle(
        simple_muon(adjust_lr_fn="none", lr=0.02 * math.sqrt(2), weight_decay=0.0), shape, weight_decay=0.0
    )


# --- mutations -------------------------------------------------------------------------------------------------------

linear_move = steps.linear_move


def flipped(W: Tensor, Q: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
    return linear_move(W, Q, -lr, out=out)


def thirty_times(W: Tensor, Q: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
    return linear_move(W, Q, 30 * lr, out=out)


def random_direction(W: Tensor, Q: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
    noise = torch.randn(Q.shape, dtype=Q.dtype, generator=torch.Generator().manual_seed(0))
    return linear_move(W, noise * (Q.norm() / noise.norm()), lr, out=out)


def slightly_long(W: Tensor, Q: Tensor, lr: float, out: Tensor | None = None) -> Tensor:
    return linear_move(W, Q, lr * (1 + 1e-6), out=out)


class WrongAxis:
    """`ngpt.sphere` with rows and columns swapped."""

    norm = staticmethod(sphere.norm)

    @staticmethod
    def project(x: Tensor, *, dim: int) -> Tensor:
        return sphere.project(x, dim=-1 if dim in (0, -2) else -2)


@pytest.mark.parametrize("dim", [None, -1, 0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mutation", [flipped, thirty_times, random_direction, slightly_long])
def test_a_wrong_step_is_rejected(
    mutation: Any, shape: tuple[int, int], dim: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"project_dim": dim, "weight_decay": 0.0}
    assert agrees_with_oracle(simple_muon(**options), shape, **options)
    monkeypatch.setattr(steps, "linear_move", mutation)
    assert not agrees_with_oracle(simple_muon(**options), shape, **options)


@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_wrong_projection_is_rejected(shape: tuple[int, int], dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"project_dim": dim, "weight_decay": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(twins, "sphere", WrongAxis)
        assert not agrees_with_oracle(simple_muon(**options), shape, **options)
    monkeypatch.setattr(LazyProjection, "project", lambda self: None)
    assert not agrees_with_oracle(simple_muon(**options), shape, **options)


@pytest.mark.parametrize("wrong", [{"nesterov": False}, {"momentum": 0.9}, {"weight_decay": 0.0}])
def test_a_wrong_option_is_rejected(wrong: dict[str, Any]) -> None:
    assert not agrees_with_oracle(simple_muon(**wrong))


# --- behavior as an optimizer ---------------------------------------------------------------------------------------


def small(dtype: torch.dtype = torch.float32, **options: Any) -> tuple[list[nn.Parameter], SimpleMuon]:
    """Return two matrices of one shape and one of another, with gradients."""
    parameters = []
    for seed, shape in enumerate([(4, 6), (4, 6), (6, 3)]):
        weight, gradients = sequence(shape, seed=seed)
        parameters.append(nn.Parameter(torch.tensor(weight, dtype=dtype)))
        parameters[-1].grad = torch.tensor(gradients[0], dtype=dtype)
    return parameters, SimpleMuon(parameters, **{"lr": 0.1, "weight_decay": 0.0, "polar_dtype": dtype, **options})


def values(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_is_never_written_to(dtype: torch.dtype, momentum: float, nesterov: bool) -> None:
    parameters, optimizer = small(dtype, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    before = [parameter.grad.clone() for parameter in parameters]
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_momentum_buffer_is_the_average_of_the_gradients(nesterov: bool) -> None:
    parameters, optimizer = small(torch.float64, momentum=0.75, nesterov=nesterov)
    first = [parameter.grad.clone() for parameter in parameters]
    optimizer.step()
    for parameter in parameters:
        parameter.grad = parameter.grad * -2
    optimizer.step()
    for parameter, G in zip(parameters, first, strict=True):
        buffer = optimizer.state[parameter]["momentum_buffer"]
        # 0.75 (0.25 G) + 0.25 (-2 G), and no rescaling by the orthogonalizer
        torch.testing.assert_close(buffer, -0.3125 * G, rtol=4 * torch.finfo(torch.float64).eps, atol=0)


def test_a_parameter_without_gradient_is_skipped() -> None:
    parameters, optimizer = small(weight_decay=0.1)
    parameters[0].grad = None
    before = values(parameters)
    optimizer.step()
    moved = [not torch.equal(p, b) for p, b in zip(parameters, before, strict=True)]
    assert moved == [False, True, True] and parameters[0] not in optimizer.state
    alone, reference = small(weight_decay=0.1)
    reference.step()
    assert torch.equal(parameters[2], alone[2])


def test_a_zero_gradient_with_zero_momentum_moves_nothing() -> None:
    parameters, optimizer = small()
    for parameter in parameters:
        parameter.grad.zero_()
    before = values(parameters)
    for _ in range(2):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_the_closure_is_called_once_with_gradients_on_and_its_loss_returned() -> None:
    parameters, optimizer = small()
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        loss = sum((parameter**2).sum() for parameter in parameters)
        optimizer.zero_grad()
        loss.backward()
        return loss.item()

    expected = sum(float((parameter.detach() ** 2).sum()) for parameter in parameters)
    assert optimizer.step(closure) == pytest.approx(expected, rel=1e-6)
    assert calls == [True] and optimizer.step() is None


def test_rate_and_momentum_are_read_from_the_groups_at_every_step() -> None:
    weight, gradients = sequence((4, 6))
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = SimpleMuon([parameter], lr=9.0, weight_decay=0.0, polar_dtype=torch.float64, orthogonalizer="svd")
    M, W = np.zeros_like(weight), weight
    for lr, mu, G in zip((0.1, 0.0, 0.03), (0.5, 0.9, 0.2), gradients, strict=False):
        optimizer.param_groups[0].update(lr=lr, momentum=mu)
        parameter.grad = torch.tensor(G)
        optimizer.step()
        M = mu * M + (1 - mu) * G
        W = W - lr * oracle.polar_exact(mu * M + (1 - mu) * G)
        np.testing.assert_allclose(parameter.detach().numpy(), W, rtol=0, atol=32 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_dict_continues_to_the_same_bits(dtype: torch.dtype) -> None:
    parameters, optimizer = small(dtype, lr=0.02, nesterov=False, orthogonalizer="polar-express", ns_steps=6)
    for _ in range(3):
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    others, resumed = small(dtype, lr=1.0)
    with torch.no_grad():
        for other, parameter in zip(others, parameters, strict=True):
            other.copy_(parameter)
    resumed.load_state_dict(saved)
    for _ in range(3):
        optimizer.step()
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
    fresh = copy.deepcopy(parameters)
    assert not torch.equal(fresh[0], small(dtype)[0][0])


INVALID: list[dict[str, Any]] = [
    {"lr": -0.1},
    {"lr": math.inf},
    {"lr": math.nan},
    {"weight_decay": -0.1},
    {"momentum": 1.0},
    {"momentum": -0.1},
    {"orthogonalizer": "qr"},
    {"orthogonalizer": "you", "ns_steps": 4},
    {"ns_steps": 0},
    {"adjust_lr_fn": "spectral"},
]


@pytest.mark.parametrize("wrong", [*INVALID, {"polar_dtype": torch.int32}], ids=str)
def test_a_wrong_option_is_refused_at_construction(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SimpleMuon([nn.Parameter(torch.zeros(4, 6))], **wrong)


@pytest.mark.parametrize("wrong", [*INVALID, {"polar_dtype": "int32"}, {"polar_dtype": "float7"}], ids=str)
def test_a_wrong_option_of_a_later_group_is_refused(wrong: dict[str, Any]) -> None:
    _, optimizer = small()
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4, 6))], **wrong})


@pytest.mark.parametrize("shape", [(), (6,), (2, 4, 6)], ids=str)
def test_only_matrices_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="matrices"):
        SimpleMuon([nn.Parameter(torch.zeros(shape))])


def test_a_refused_group_is_not_kept() -> None:
    parameters, optimizer = small()
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4, 6))], "lr": -0.1})
    assert [group["params"] for group in optimizer.param_groups] == [parameters]


def test_a_later_group_has_options_of_its_own() -> None:
    parameters, optimizer = small(torch.float64, orthogonalizer="svd", adjust_lr_fn="none")
    late = nn.Parameter(parameters[0].detach().clone())
    late.grad = parameters[0].grad.clone()
    optimizer.add_param_group({"params": [late], "lr": 0.025})
    start = late.detach().clone()
    optimizer.step()
    rounding = 32 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(late - start, (parameters[0] - start) / 4, rtol=0, atol=rounding)


# --- descent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dim", [None, -1, 0])
def test_a_linear_loss_falls_by_the_predicted_amount(dim: int | None, shape: tuple[int, int]) -> None:
    """<G, W> falls by lr |G|_* in a free step; on the sphere only the tangent part of the step counts."""
    weight, gradients = sequence(shape)
    weight, G, lr = sphere_oracle.project(weight, -1 if dim is None else dim), gradients[0], 1e-4
    options: dict[str, Any] = {"orthogonalizer": "svd", "adjust_lr_fn": "none", "weight_decay": 0.0}
    after = simple_muon(lr=lr, project_dim=dim, **options)(weight, [G])
    if dim is None:
        predicted = lr * np.linalg.svd(G, compute_uv=False).sum()
    else:
        predicted = lr * float((G * sphere_oracle.tangent(weight, oracle.polar_exact(G), dim)).sum())
    assert predicted > 0
    assert float((G * (weight - after[0])).sum()) == pytest.approx(predicted, rel=0.01)  # the second order is lr, 1e-4
