"""Helpers for the tests of single steps: layouts, weights with an update, and one matrix in a SimpleMuon."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from oracles import sphere as oracle
from torch import Tensor, nn

from ngpt.optim.muon import SimpleMuon

Array = np.ndarray
SHAPES = {"wide": (5, 48), "tall": (48, 5), "square": (12, 12), "stacked": (3, 8, 20)}
LAYOUTS = [pytest.param(shape, dim, id=f"{name}-dim{dim}") for name, shape in SHAPES.items() for dim in (-1, -2)]
MATRICES = [
    pytest.param(shape, dim, id=f"{name}-dim{dim}")
    for name, shape in {"wide": (5, 12), "tall": (12, 5), "square": (8, 8)}.items()
    for dim in (-1, 0)
]
"""(shape, dimension of the unit vectors)"""

EPS64, EPS32, EPS16 = (torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32, torch.bfloat16))


def points(shape: tuple[int, ...], dim: int, seed: int = 0) -> Array:
    """Return unit vectors along `dim`."""
    return oracle.project(np.random.default_rng(seed).normal(size=shape), dim)


def update(W: Array, dim: int, seed: int = 1, radial: float = 1.0) -> Array:
    """Return an O with tangent parts of length 1/4 to 1, the longest 1, and radial parts of up to `radial`.

    The lengths of a vector, of its tangent part, and of the matrix then all differ.
    """
    rng = np.random.default_rng(seed)
    one_each = np.sum(W, axis=dim, keepdims=True).shape
    lengths = rng.permutation(np.linspace(0.25, 1.0, int(np.prod(one_each)))).reshape(one_each)
    u = oracle.project(oracle.tangent(W, rng.normal(size=W.shape), dim), dim)
    result: Array = lengths * u + radial * rng.uniform(-1, 1, one_each) * W
    return result


def gradients(shape: tuple[int, ...], count: int) -> list[Array]:
    """Return gradients with a constant and a fresh part, so that momentum has a direction."""
    rng = np.random.default_rng(10)
    lasting = rng.normal(size=shape)
    return [lasting + rng.normal(size=shape) for _ in range(count)]


def tensors(dtype: torch.dtype, *arrays: Array) -> list[Tensor]:
    """Return arrays as tensors of `dtype`."""
    return [torch.tensor(array, dtype=dtype) for array in arrays]


def doubles(*given: Tensor) -> list[Array]:
    """Return the stored values of tensors in float64."""
    return [tensor.detach().double().numpy() for tensor in given]


def lengths(x: Array, dim: int) -> Array:
    """Return the Euclidean length of every vector."""
    result: Array = np.linalg.norm(x, axis=dim, keepdims=True)
    return result


def order(sizes: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Fit errors = c sizes^p by regression and return p and c."""
    slope, constant = np.polyfit(np.log(sizes), np.log(errors), 1)
    return float(slope), float(np.exp(constant))


PLAIN: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "orthogonalizer": "svd", "adjust_lr_fn": "none"}
"""Return options for a step along the exact polar factor of the gradient and nothing else."""


def muon(W: Array, dim: int, *, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Parameter, SimpleMuon]:
    """Return one matrix and its optimizer."""
    parameter = nn.Parameter(torch.tensor(W, dtype=dtype))
    settings = {"polar_dtype": dtype, "sphere_dim": dim, **PLAIN, **options}
    return parameter, SimpleMuon([parameter], **settings)


def trace(W: Array, gradients: Sequence[Array], dim: int, **options: Any) -> list[Array]:
    """Return the stored weights after each step, in float64."""
    parameter, optimizer = muon(W, dim, **options)
    found = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        optimizer.step()
        found.append(parameter.detach().double().numpy().copy())
    return found
