"""Weight decay: all entries or exactly the masked ones, by exactly lr wd, and as a direction in a geodesic step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import EPS64, LAYOUTS, MATRICES, doubles, gradients, lengths, points, tensors, trace, update
from oracles import optimizers as oracle
from oracles import sphere as sphere_oracle
from torch import Tensor

from ngpt.optim import steps
from ngpt.optim.muon import SimpleMuon

Array = np.ndarray
LR, WD = 0.1, 0.7
decay_mask = steps.decay_mask


# --- the mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_the_entries_of_the_mask_decay_by_lr_wd_and_no_other_changes(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    W, O = tensors(dtype, points(shape, dim), update(points(shape, dim), dim))
    mask = decay_mask(W, O)
    assert 0 < mask.sum() < mask.numel()
    decayed = steps.decay(W, LR, WD, mask)
    assert torch.equal(decayed[~mask], W[~mask])
    assert torch.equal(decayed[mask], (W * (1 - LR * WD))[mask])
    assert torch.equal(steps.decay(W, LR, WD), W * (1 - LR * WD)) and torch.equal(steps.decay(W, LR, 0.0, mask), W)
    np.testing.assert_allclose(
        doubles(decayed)[0], oracle.cautious_decay(*doubles(W, O), LR * WD), rtol=2 * torch.finfo(dtype).eps
    )


def test_a_product_that_underflows_does_not_change_the_mask() -> None:
    """O W = +-1e-60 is 0 in float32, and 0 >= 0."""
    W, O = torch.tensor([1e-30, 1e-30, -1e-30, -1e-30]), torch.tensor([1e-30, -1e-30, 1e-30, -1e-30])
    assert decay_mask(W, O).tolist() == decay_mask(1e30 * W, 1e30 * O).tolist() == [True, False, False, True]
    assert (W * O >= 0).all(), "the contrast"


def test_an_entry_of_zero_decays() -> None:
    """The mask uses >=, as in the source: a zero update lets a weight decay; a zero weight stays zero."""
    W, O = torch.tensor([0.0, -0.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, 0.0, -0.0])
    assert decay_mask(W, O).all()


# --- in a linear step ------------------------------------------------------------------------------------------------


def agrees(shape: tuple[int, int], dim: int, **options: Any) -> bool:
    """Return whether three steps of SimpleMuon, each decay and then the update, match the oracle in float64."""
    given = gradients(shape, 3)
    want = W = points(shape, dim)
    for G, got in zip(given, trace(W, given, dim, lr=LR, weight_decay=WD, **options), strict=True):
        O = oracle.polar_exact(G)
        step = np.sqrt(max(1.0, shape[0] / shape[1])) * O if options.get("adjust_lr_fn") == "original" else O
        geodesic = options.get("geodesic")
        if geodesic is None:
            want = (oracle.cautious_decay(want, O, LR * WD) if options["cautious_wd"] else want * (1 - LR * WD)) - (
                LR * step
            )
        else:
            D = oracle.cautious_decay(want, O, WD) - want - step
            want = oracle.geodesic_step(want, D, LR, geodesic, dim)
        if np.abs(got - want).max() > 64 * EPS64:
            return False
    return True


OPTIONS: list[dict[str, Any]] = [
    {"cautious_wd": False},
    {"cautious_wd": True},
    {"cautious_wd": True, "adjust_lr_fn": "original"},  # the decay is not adjusted
    {"cautious_wd": True, "geodesic": "lr"},
    {"cautious_wd": True, "geodesic": "lr-norm"},
    {"cautious_wd": True, "geodesic": "lr", "adjust_lr_fn": "original"},
    {"cautious_wd": True, "geodesic": "lr-norm", "adjust_lr_fn": "original"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_agrees_with_the_oracle(shape: tuple[int, int], dim: int, options: dict[str, Any]) -> None:
    assert agrees(shape, dim, **options)


def opposite(W: Tensor, O: Tensor) -> Tensor:
    return ~decay_mask(W, O)


def everywhere(W: Tensor, O: Tensor) -> Tensor:
    return torch.ones_like(W, dtype=torch.bool)


def nowhere(W: Tensor, O: Tensor) -> Tensor:
    return torch.zeros_like(W, dtype=torch.bool)


def by_vector(W: Tensor, O: Tensor) -> Tensor:
    return ((W * O).sum(-1, keepdim=True) >= 0).expand_as(W)


@pytest.mark.parametrize("mutation", [opposite, everywhere, nowhere, by_vector])
@pytest.mark.parametrize("options", OPTIONS[1:], ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_a_wrong_mask_is_rejected(
    shape: tuple[int, int],
    dim: int,
    options: dict[str, Any],
    mutation: Callable[[Tensor, Tensor], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "decay_mask", mutation)
    assert not agrees(shape, dim, **options)


@pytest.mark.parametrize("wrong", [{"weight_decay": WD * (1 + 1e-9)}, {"weight_decay": WD / LR}, {"lr": -LR}], ids=str)
def test_a_wrong_strength_is_rejected(wrong: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    decay = steps.decay

    def mutated(W: Tensor, lr: float, weight_decay: float, mask: Tensor | None = None) -> Tensor:
        return decay(W, wrong.get("lr", lr), wrong.get("weight_decay", weight_decay), mask)

    monkeypatch.setattr(steps, "decay", mutated)
    for cautious in (False, True):
        assert not agrees((5, 12), -1, cautious_wd=cautious)


# --- on the sphere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adjust", ["none", "original"])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_plain_decay_and_a_projection_are_a_longer_step(shape: tuple[int, int], dim: int, adjust: str) -> None:
    """The longer step has rate lr / (1 - lr wd); cautious decay also changes the direction."""
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    options: dict[str, Any] = {"adjust_lr_fn": adjust}
    (decayed,) = trace(W, [G], dim, lr=LR, weight_decay=WD, **options)
    (longer,) = trace(W, [G], dim, lr=LR / (1 - LR * WD), **options)
    (cautious,) = trace(W, [G], dim, lr=LR, weight_decay=WD, cautious_wd=True, **options)
    landed = [sphere_oracle.project(weights, dim) for weights in (decayed, longer, cautious)]
    np.testing.assert_allclose(landed[0], landed[1], rtol=0, atol=16 * EPS64)
    assert lengths(landed[2] - landed[1], dim).max() > 0.1 * LR * WD


@pytest.mark.parametrize("mode", ["lr", "lr-norm"])
@pytest.mark.parametrize(("shape", "dim"), MATRICES)
def test_decay_does_not_lengthen_a_geodesic_step_of_a_fixed_angle(shape: tuple[int, int], dim: int, mode: Any) -> None:
    """Decay is part of the direction: the weights stay on the sphere, and with "lr" the angle is lr."""
    W, G = points(shape, dim), np.random.default_rng(3).normal(size=shape)
    (plain,) = trace(W, [G], dim, lr=LR, geodesic=mode)
    (decayed,) = trace(W, [G], dim, lr=LR, geodesic=mode, weight_decay=WD, cautious_wd=True)
    np.testing.assert_allclose(lengths(decayed, dim), 1.0, rtol=8 * EPS64)
    assert lengths(decayed - plain, dim).max() > 0.1 * LR * WD
    if mode == "lr":
        np.testing.assert_allclose(sphere_oracle.angle(W, decayed, dim), LR, rtol=64 * EPS64 / LR)


@pytest.mark.parametrize("mode", ["lr", "lr-norm"])
def test_plain_decay_of_a_geodesic_step_is_refused(mode: Any) -> None:
    parameter = torch.nn.Parameter(torch.eye(4))
    with pytest.raises(ValueError, match="weight_decay"):
        SimpleMuon([parameter], weight_decay=0.1, geodesic=mode, sphere_dim=-1)
    SimpleMuon([parameter], weight_decay=0.1, geodesic=mode, sphere_dim=-1, cautious_wd=True)
