"""Float64 oracles of the rules of `ngpt.rules`, one matrix at a time.

Legend as in `optimizers`: W weight, G gradients, M momentum, D direction, `dim` that of
the vectors. Each returns W after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from . import sphere
from .optimizers import Array, polar_exact, shape_ratio

Orthogonalize = Callable[[Array], Array]
Step = Callable[[Array, Array, int], Array]


def _trace(
    W: ArrayLike, grads: Sequence[ArrayLike], momentum: float, nesterov: bool, step: Step
) -> list[Array]:
    """Weights after each W <- step(W, X, t): X the look-ahead or momentum, t from 0."""
    W_array = np.array(W, dtype=np.float64)
    M = np.zeros_like(W_array)
    found = []
    for t, grad in enumerate(grads):
        G = np.array(grad, dtype=np.float64)
        M = momentum * M + (1.0 - momentum) * G
        X = (1.0 - momentum) * G + momentum * M if nesterov else M
        W_array = step(W_array, X, t)
        found.append(W_array)
    return found


def _unit_lines(X: Array, dim: int) -> Array:
    lengths = np.sqrt(np.sum(X * X, axis=dim, keepdims=True))
    return np.where(lengths > 0, X / np.where(lengths > 0, lengths, 1.0), 0.0)


def nora(
    W: ArrayLike, grads: Sequence[ArrayLike], *, dim: int, lr: float, momentum: float, nesterov: bool
) -> list[Array]:
    """arXiv 2605.03769: W_r <- W_r - lr u / |u|, u = M_r - <M_r, W_r> W_r / |W_r|^2."""

    def step(W: Array, X: Array, t: int) -> Array:
        return W - lr * _unit_lines(sphere.tangent(sphere.project(W, dim), X, dim), dim)

    return _trace(W, grads, momentum, nesterov, step)


def rmnp(
    W: ArrayLike, grads: Sequence[ArrayLike], *, dim: int, lr: float, momentum: float, nesterov: bool
) -> list[Array]:
    """arXiv 2603.20527: W <- W - lr diag(M M^T)^-1/2 M, over rows (dim -1) or columns."""

    def step(W: Array, X: Array, t: int) -> Array:
        if dim in (-1, 1):
            return W - lr * np.diag(np.diag(X @ X.T) ** -0.5) @ X
        return W - lr * X @ np.diag(np.diag(X.T @ X) ** -0.5)

    return _trace(W, grads, momentum, nesterov, step)


def signum(
    W: ArrayLike, grads: Sequence[ArrayLike], *, dim: int, lr: float, momentum: float, nesterov: bool
) -> list[Array]:
    """arXiv 1802.04434, divided by the root of a vector's length."""
    return _trace(W, grads, momentum, nesterov, lambda W, X, t: W - lr * np.sign(X) / math.sqrt(W.shape[dim]))


def kaon(
    W: ArrayLike, grads: Sequence[ArrayLike], *, lr: float, momentum: float, nesterov: bool, draws: Sequence[ArrayLike]
) -> list[Array]:
    """arXiv 2605.11181: D = sum_i r_i u_i v_i^T, r the draws of the step, in the order of falling singular values."""

    def step(W: Array, X: Array, t: int) -> Array:
        left, _, right = np.linalg.svd(X, full_matrices=False)
        return W - lr * sum(
            r * np.outer(left[:, i], right[i]) for i, r in enumerate(np.asarray(draws[t], dtype=np.float64))
        )

    return _trace(W, grads, momentum, nesterov, step)


def angular_muown(
    W: ArrayLike, grads: Sequence[ArrayLike], *, dim: int, lr: float, momentum: float, nesterov: bool,
    orthogonalize: Orthogonalize, decay_scale: float, decay_degree: float, decay_after: int,
) -> list[Array]:  # fmt: skip
    """arXiv 2606.23637 with gains of 1, as its code has it: M is a sum, M <- mu M + grad_U."""
    U = np.array(W, dtype=np.float64)
    M = np.zeros_like(U)
    found = []
    for t, grad in enumerate(grads):
        grad_U = sphere.tangent(U, np.array(grad, dtype=np.float64), dim)
        M = momentum * M + grad_U
        Q = orthogonalize(grad_U + momentum * M if nesterov else M)
        kappa = (1.0 + decay_scale * max(0, t - decay_after)) ** (-decay_degree)
        U = sphere.project(U - lr * kappa * shape_ratio(U.shape, None) * Q, dim)
        found.append(U)
    return found


def two_buffer_muon(
    W: ArrayLike, grads: Sequence[ArrayLike], *, lr: float, momentum: float, nesterov: bool, slow_momentum: float,
    slow_weight: float, orthogonalize: Orthogonalize,
) -> list[Array]:  # fmt: skip
    """Muon of (1 - a) X + a S, S the weighted mean of all gradients so far, weights nu^age."""
    all_grads = [np.array(grad, dtype=np.float64) for grad in grads]

    def step(W: Array, X: Array, t: int) -> Array:
        weights = [slow_momentum ** (t - s) for s in range(t + 1)]
        S = sum(w * G for w, G in zip(weights, all_grads, strict=False)) / sum(weights)
        mixed = (1.0 - slow_weight) * X + slow_weight * S
        return W - lr * shape_ratio(W.shape, None) * orthogonalize(mixed)

    return _trace(W, grads, momentum, nesterov, step)


def muon_h(
    W: ArrayLike, grads: Sequence[ArrayLike], *, lr: float, momentum: float, nesterov: bool,
    orthogonalize: Orthogonalize,
) -> list[Array]:  # fmt: skip
    """arXiv 2606.16899: W <- R N(W - lr R N(O)), R = |W_0|_F, N(Y) = Y / |Y|_F."""
    R = np.linalg.norm(np.array(W, dtype=np.float64))

    def step(W: Array, X: Array, t: int) -> Array:
        O = orthogonalize(X)
        moved = W - lr * R * O / np.linalg.norm(O)
        return R * moved / np.linalg.norm(moved)

    return _trace(W, grads, momentum, nesterov, step)


def muon_sphere(
    W: ArrayLike, grads: Sequence[ArrayLike], *, lr: float, momentum: float, nesterov: bool, c: float,
    orthogonalize: Orthogonalize = polar_exact,
) -> list[Array]:  # fmt: skip
    """arXiv 2601.08393 with lambda = 0: W <- W R / sigma_1(W), then W <- W - lr R O, R = c sqrt(m / n)."""

    def step(W: Array, X: Array, t: int) -> Array:
        R = c * math.sqrt(W.shape[0] / W.shape[1])
        return W * (R / np.linalg.svd(W, compute_uv=False)[0]) - lr * R * orthogonalize(X)

    return _trace(W, grads, momentum, nesterov, step)


def ema_nesterov(
    W: ArrayLike, grads: Sequence[ArrayLike], *, dim: int, lr: float, momentum: float, nesterov: bool, gamma: float,
    look_ahead: float, orthogonalize: Orthogonalize,
) -> list[Array]:  # fmt: skip
    """arXiv 2605.25395 on the sphere, at a constant rate: the points ahead, y_1, y_2, ...

    theta_{t+1} = A(y_t); e <- T(gamma e + (1 - gamma)(N(theta_{t+1}) - N(theta_t)));
    y_{t+1} = |theta_{t+1}| N(N(theta_{t+1}) + look_ahead e).
    """
    e = np.zeros(np.array(W).shape)
    x = sphere.project(W, dim)

    def step(y: Array, X: Array, t: int) -> Array:
        nonlocal e, x
        theta = y - lr * shape_ratio(y.shape, None) * orthogonalize(X)
        x_new = sphere.project(theta, dim)
        e = sphere.tangent(x_new, gamma * e + (1.0 - gamma) * (x_new - x), dim)
        x = x_new
        return np.linalg.norm(theta, axis=dim, keepdims=True) * sphere.retract(x_new, look_ahead * e, dim)

    return _trace(W, grads, momentum, nesterov, step)
