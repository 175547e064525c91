"""NorMuon's variance reduction: matches the oracle, keeps the norm, leaves even rows, and its state stays float32."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS16, EPS32, EPS64, MATRICES, SHAPES, doubles, muon, points, tensors, trace
from oracles import optimizers as oracle
from torch import Tensor, nn

from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.optim import steps
from ngpt.optim.build import build_optimizers
from ngpt.optim.muon import SimpleMuon
from ngpt.presets import resolve
from ngpt.training.checkpoint import pack_state, read_tensors, unpack_state, write_tensors

Array = np.ndarray
AXES: list[Any] = ["short-axis", "rows"]
CASES = [pytest.param(shape, axis, id=f"{name}-{axis}") for name, shape in SHAPES.items() for axis in AXES]
"""(shape of O, axis)"""
variance_reduction = steps.variance_reduction
Reduction = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def by_row(shape: tuple[int, ...], axis: str) -> bool:
    return axis == "rows" or shape[-2] >= shape[-1]


def uneven(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Array]:
    """Return matrices whose rows and columns differ in length by constant factors."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.uniform(0.2, 3, (*shape[:-1], 1)), rng.uniform(0.2, 3, (*shape[:-2], 1, shape[-1]))
    return [rows * columns * rng.normal(size=shape) for _ in range(count)]


def start(shape: tuple[int, ...], axis: Any, dtype: torch.dtype) -> Tensor:
    return torch.zeros((*shape[:-2], *steps.second_moment_shape(torch.Size(shape), axis)), dtype=dtype)


# --- the oracle ------------------------------------------------------------------------------------------------------


def agrees(reduction: Reduction, shape: tuple[int, ...], axis: Any, dtype: torch.dtype, count: int = 5) -> bool:
    """Return whether O' and V match the oracle over several steps, each entry to a few roundings."""
    V = start(shape, axis, dtype)
    V_want = V.double().numpy()
    for O_64 in uneven(shape, count):
        (O,) = tensors(dtype, O_64)
        got, V = reduction(O, V, 0.9)
        want, V_want = oracle.normuon(doubles(O)[0], V_want, 0.9, axis=axis)
        rtol = 32 * torch.finfo(dtype).eps  # sums of up to 240 squares, a root, a quotient
        if V.shape != V_want.shape or not np.allclose(V.numpy(), V_want, rtol=rtol, atol=0):
            return False
        if not np.allclose(got.numpy(), want, rtol=rtol, atol=0):
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_agrees_with_the_oracle(shape: tuple[int, ...], axis: Any, dtype: torch.dtype) -> None:
    assert agrees(variance_reduction, shape, axis, dtype)


def wrong_axis(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    other = O.new_zeros((*O.shape[:-1], 1) if V.size(-1) != 1 else (*O.shape[:-2], 1, O.shape[-1]))
    return variance_reduction(O, other, beta2)[0], variance_reduction(O, V, beta2)[1]


def norm_not_kept(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    V = variance_reduction(O, V, beta2)[1]
    return O * V.rsqrt(), V


def squared(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    V = variance_reduction(O, V, beta2)[1]
    P = O / V
    return P * torch.linalg.matrix_norm(O, keepdim=True) / torch.linalg.matrix_norm(P, keepdim=True), V


def memory_swapped(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    return variance_reduction(O, V, 1 - beta2)


def forgetting(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    return variance_reduction(O, 0 * V, beta2)[0], variance_reduction(O, V, beta2)[1]


def multiplied(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    V = variance_reduction(O, V, beta2)[1]
    P = O * V.sqrt()
    return P * torch.linalg.matrix_norm(O, keepdim=True) / torch.linalg.matrix_norm(P, keepdim=True), V


def idle(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    return O, variance_reduction(O, V, beta2)[1]


MUTATIONS = [wrong_axis, norm_not_kept, squared, memory_swapped, forgetting, multiplied, idle]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_a_wrong_reduction_is_rejected(shape: tuple[int, ...], axis: Any, mutation: Reduction) -> None:
    assert not agrees(mutation, shape, axis, torch.float64)


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float64, 16 * EPS64), (torch.float32, 1e-5), (torch.bfloat16, EPS16 / 2)],  # of each entry, in bfloat16
    ids=str,
)
@pytest.mark.parametrize(("shape", "axis"), [*CASES, pytest.param((768, 2048), "rows", id="a large one")])
def test_the_norm_is_kept(shape: tuple[int, ...], axis: Any, dtype: torch.dtype, rounding: float) -> None:
    V = start(shape, axis, torch.promote_types(dtype, torch.float32))
    for O_64 in uneven(shape, 5):
        (O,) = tensors(dtype, O_64)
        got, V = variance_reduction(O, V, 0.9)
        assert got.dtype == dtype and V.dtype == torch.promote_types(dtype, torch.float32)
        before, after = (np.linalg.norm(doubles(matrix)[0], axis=(-2, -1)) for matrix in (O, got))
        np.testing.assert_allclose(after, before, rtol=rounding)


# --- in SimpleMuon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_the_state_has_one_value_a_line(shape: tuple[int, int], dim: int, axis: Any) -> None:
    parameter, optimizer = muon(points(shape, dim), dim, normuon=axis)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state[parameter]
    line = (shape[0], 1) if by_row(shape, axis) else (1, shape[1])
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "momentum_buffer": shape,
        "second_momentum_buffer": line,
    }
    assert list(optimizer.state_types().values()) == [
        {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
    ]


@pytest.mark.parametrize("shape", [(4, 9), (6, 6)], ids=str)
@pytest.mark.parametrize("dim", [-1, 0])
def test_unit_rows_of_a_polar_factor_are_left_as_they_are(shape: tuple[int, int], dim: int) -> None:
    """True of wide and square matrices by rows; the rows of a tall one are not unit, nor the columns of a wide one."""
    for size, axis in itertools.product((shape, shape[::-1]), AXES):
        gradients = uneven(size, 4)
        options: dict[str, Any] = {"momentum": 0.9, "lr": 0.1}
        plain, reduced = (trace(points(size, dim), gradients, dim, normuon=n, **options) for n in (None, axis))
        even = size[0] <= size[1] and by_row(size, axis)
        difference = np.abs(plain[-1] - reduced[-1]).max()
        assert (difference < 64 * EPS64) == even and (even or difference > 1e-3), (size, axis)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_fixed_angle_cancels_it_on_the_vectors_that_it_scales(shape: tuple[int, int], dim: int, axis: Any) -> None:
    """Across the vectors, only an even polar factor cancels it. With an angle of lr |u| it has an effect."""
    gradients = uneven(shape, 4)
    changes = {}
    for mode in ("lr", "lr-norm"):
        options: dict[str, Any] = {"momentum": 0.9, "lr": 0.1, "geodesic": mode}
        plain, reduced = (trace(points(shape, dim), gradients, dim, normuon=n, **options) for n in (None, axis))
        changes[mode] = np.abs(plain[-1] - reduced[-1]).max()
    rows, even = by_row(shape, axis), shape[0] <= shape[1] and by_row(shape, axis)
    scales_vectors = rows == (dim == -1)
    assert (changes["lr"] < 256 * EPS64) == (scales_vectors or even)
    assert (changes["lr-norm"] < 256 * EPS64) == even


@pytest.mark.parametrize(
    ("arch", "axis", "idle"),
    [("gated-ngpt", "short-axis", True), ("gated-ngpt", "rows", True), ("ngpt", "short-axis", True),
     ("ngpt", "rows", True), ("gated-literal", "rows", True), ("gated-literal", "short-axis", False)],
)  # fmt: skip
def test_that_a_fixed_angle_is_refused_with_it_is_right(
    arch: Any, axis: Any, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an exact polar factor; in the literal model some matrices have unit rows and uneven columns."""
    settings: dict[str, Any] = dict(
        arch=arch, n_layer=1, n_embd=24, n_head=4, seq_len=8, geodesic_muon="lr", orthogonalizer="svd", lr=0.1
    )
    with pytest.raises(InputError, match="--normuon .*--geodesic-muon lr") if idle else contextlib.nullcontext():
        resolve("tiny", **settings, normuon=axis)
    monkeypatch.setattr("ngpt.refusals.first_refusal", lambda *_: None)
    ends = []
    for normuon in (None, axis):
        config = resolve("tiny", **settings, normuon=normuon)
        model = build_model(config.model, 17, seed=0)
        optimizers = build_optimizers(model, config)
        for seed in range(3):
            for parameter in model.parameters():
                (G,) = uneven((1, parameter.numel()), 1, seed)
                parameter.grad = torch.tensor(G, dtype=torch.float32).reshape(parameter.shape)
            optimizers.hidden.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    # three rotations by 0.1; an exact polar factor is given in float32
    assert ((ends[0] - ends[1]).abs().max().item() < 64 * EPS32) == idle


# --- nothing to divide by --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_zero_and_tiny_lines_stay_finite(shape: tuple[int, ...], axis: Any, dtype: torch.dtype, size: float) -> None:
    """Zero lines also stay zero."""
    for whole in (False, True):
        V = start(shape, axis, torch.promote_types(dtype, torch.float32))
        for O_64 in uneven(shape, 3):
            if whole:
                O_64 = size * O_64
            elif by_row(shape, axis):
                O_64[..., 1, :] *= size
            else:
                O_64[..., :, 1] *= size
            (O,) = tensors(dtype, O_64)
            got, V = variance_reduction(O, V, 0.9)
            assert torch.isfinite(got).all() and torch.isfinite(V).all()
            lengths = np.linalg.norm(doubles(got)[0], axis=(-2, -1))
            given = np.linalg.norm(doubles(O)[0], axis=(-2, -1))
            assert (lengths <= given * (1 + EPS16) + 1e-12).all()
            if size == 0.0:
                assert torch.equal(got == 0, O == 0)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_vanished_gradient_leaves_finite_weights(shape: tuple[int, int], dim: int, axis: Any) -> None:
    W, (G,) = points(shape, dim), uneven(shape, 1)
    found = trace(W, [0 * G, G, 0 * G, G], dim, normuon=axis, lr=0.1)
    np.testing.assert_array_equal(found[0], W)
    np.testing.assert_array_equal(found[2], found[1])
    assert np.isfinite(found[-1]).all() and not np.array_equal(found[-1], found[2])
    once, _ = oracle.normuon(oracle.polar_exact(G), np.zeros_like(G[:, :1] if by_row(shape, axis) else G[:1]), 0.95,
                             axis=axis)  # fmt: skip
    np.testing.assert_allclose(found[1], W - 0.1 * once, rtol=0, atol=32 * EPS64)  # a zero V changes nothing after it


# --- its state -------------------------------------------------------------------------------------------------------


def stepped(dtype: torch.dtype, axis: Any, count: int = 3) -> tuple[nn.Module, SimpleMuon]:
    """Return a wide and a tall matrix of `dtype` after some steps."""
    module = nn.Module()
    for name, shape in (("wide", (4, 6)), ("tall", (9, 5))):
        module.register_parameter(name, nn.Parameter(torch.tensor(points(shape, -1), dtype=dtype)))
    optimizer = SimpleMuon(module.parameters(), lr=0.02, normuon=axis, beta2=0.9, sphere_dim=-1)
    continue_(module, optimizer, range(count))
    return module, optimizer


def continue_(module: nn.Module, optimizer: SimpleMuon, seeds: range) -> None:
    for seed in seeds:
        for parameter in module.parameters():
            parameter.grad = torch.tensor(uneven(tuple(parameter.shape), 1, seed)[0], dtype=parameter.dtype)
        optimizer.step()


def second_moments(optimizer: SimpleMuon) -> list[Tensor]:
    return [state["second_momentum_buffer"] for state in optimizer.state.values()]


@pytest.mark.parametrize("way", ["state_dict", "file"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_second_moment_stays_float32_and_continues_to_the_same_bits(
    tmp_path: Path, dtype: torch.dtype, axis: Any, way: str
) -> None:
    module, optimizer = stepped(dtype, axis)
    assert all(V.dtype == torch.float32 for V in second_moments(optimizer))
    other, resumed = stepped(dtype, axis, count=0)
    if way == "file":
        path = tmp_path / "checkpoint.safetensors"
        write_tensors(path, pack_state(dict(module.named_parameters()), {"hidden": optimizer}), {})
        unpack_state(path, read_tensors(path)[0], dict(other.named_parameters()), {"hidden": resumed})
    else:
        other.load_state_dict(module.state_dict())
        kept = copy.deepcopy(optimizer.state_dict())
        resumed.load_state_dict(kept)
        resumed.state[other.wide]["second_momentum_buffer"].add_(1)
        assert torch.equal(kept["state"][0]["second_momentum_buffer"], second_moments(optimizer)[0]), "a copy"
        resumed.load_state_dict(kept)
    for V, V_resumed in zip(second_moments(optimizer), second_moments(resumed), strict=True):
        assert V_resumed.dtype == torch.float32 and torch.equal(V, V_resumed)
    for one, its_optimizer in ((module, optimizer), (other, resumed)):
        continue_(one, its_optimizer, range(7, 10))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(second_moments(optimizer), second_moments(resumed), strict=True))


def test_torch_alone_would_round_the_second_moment() -> None:
    _, optimizer = stepped(torch.bfloat16, "rows")
    _, resumed = stepped(torch.bfloat16, "rows", count=0)
    torch.optim.Optimizer.load_state_dict(resumed, copy.deepcopy(optimizer.state_dict()))
    assert all(V.dtype == torch.bfloat16 for V in second_moments(resumed))


def test_the_state_of_another_axis_is_not_taken(tmp_path: Path) -> None:
    module, optimizer = stepped(torch.float32, "rows")
    other, resumed = stepped(torch.float32, "short-axis", count=0)
    with pytest.raises(InputError, match="hidden optimizer"):
        unpack_state(
            tmp_path / "a file",
            pack_state(dict(module.named_parameters()), {"hidden": optimizer}),
            dict(other.named_parameters()),
            {"hidden": resumed},
        )
    plain = SimpleMuon(other.parameters())
    with pytest.raises(InputError, match="hidden optimizer"):
        unpack_state(
            tmp_path / "a file",
            pack_state(dict(module.named_parameters()), {"hidden": optimizer}),
            dict(other.named_parameters()),
            {"hidden": plain},
        )


def test_the_floor_is_far_below_a_polar_factor() -> None:
    """A unit row of 4096 entries has a second moment of 1 / 4096, and 5% of that after the first step."""
    assert steps.VARIANCE_FLOOR < 1e-4 * (1 - 0.95) / 4096 and math.sqrt(1 / steps.VARIANCE_FLOOR) < 1e6
