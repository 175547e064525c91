"""Float64 oracle of the optimizer steps, one matrix at a time.

Legend: W weight, G gradient, M momentum, O orthogonalized momentum, D = -O descent
direction, V second moment; matrices are (..., m, n), the leading axes being a stack
of independent matrices. Nothing is done in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import sphere

Array = NDArray[np.float64]


def _each_matrix(G: ArrayLike, rule: Callable[[Array], Array]) -> Array:
    """Apply rule, (m, n) -> (m, n), to every matrix of a stack (..., m, n)."""
    G_array = np.array(G, dtype=np.float64)
    result = np.empty_like(G_array)
    for index in np.ndindex(*G_array.shape[:-2]):
        result[index] = rule(G_array[index])
    return result


def _frobenius(X: Array) -> float:
    """|X|_F, scaled by the largest entry so that 1e-200 is not lost."""
    largest = float(np.max(np.abs(X), initial=0.0))
    if largest == 0.0:
        return 0.0
    return largest * math.sqrt(float(np.sum((X / largest) ** 2)))


def polar_exact(G: ArrayLike) -> Array:
    """Orthogonal polar factor by singular value decomposition.

    sum_i u_i v_i^T over the singular values above eps max(m, n) s_1, where
    G = sum_i s_i u_i v_i^T; zero G gives zero. G: (..., m, n). All singular values of
    the result are 1 (or 0 where G lacks rank). Source: Higham, Functions of Matrices
    (2008), Theorem 8.1.
    """

    def rule(g: Array) -> Array:
        scale = _frobenius(g)
        if scale == 0.0:
            return np.zeros_like(g)
        left, values, right = np.linalg.svd(g / scale, full_matrices=False)
        floor = np.finfo(np.float64).eps * max(g.shape) * values[0]
        result = np.zeros_like(g)
        for i, value in enumerate(values):
            if value > floor:
                result += np.outer(left[:, i], right[i])
        return result

    return _each_matrix(G, rule)


def polynomial_polar(G: ArrayLike, rows: Sequence[tuple[float, float, float]], safety: float = 1.0) -> Array:
    """Approximate polar factor by odd quintic polynomials of the singular values.

    X = G / (safety |G|_F), then for each row (a, b, c):
    X <- a X + b (X X^T) X + c (X X^T)^2 X. Zero G gives zero. G: (..., m, n).
    Source: arXiv 2505.16932 (Polar Express, a row per step); Keller Jordan's Muon (one
    repeated row). Differs from both: no additive epsilon, so exactly scale-invariant.
    """

    def rule(g: Array) -> Array:
        scale = _frobenius(g)
        if scale == 0.0:
            return np.zeros_like(g)
        X = (g / scale) / safety
        for a, b, c in rows:
            A = X @ X.T
            X = a * X + b * (A @ X) + c * (A @ A @ X)
        return X

    return _each_matrix(G, rule)


def shape_ratio(shape: Sequence[int], adjust_lr_fn: str | None) -> float:
    """Learning-rate factor of a matrix (m, n).

    None or "original": sqrt(max(1, m / n)); "match_rms_adamw": 0.2 sqrt(max(m, n));
    "none": 1.
    Source: torch.optim.Muon, `_adjust_lr`; arXiv 2502.16982 section 2.2 for the second.
    """
    m, n = shape[-2], shape[-1]
    if adjust_lr_fn == "none":
        return 1.0
    if adjust_lr_fn in (None, "original"):
        return math.sqrt(max(1.0, m / n))
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(m, n))
    raise ValueError(f"unknown adjust_lr_fn {adjust_lr_fn!r}")


def muon(
    W: ArrayLike,
    grads: Sequence[ArrayLike],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    adjust_lr_fn: str | None,
    orthogonalize: Callable[[Array], Array],
) -> list[Array]:
    """Weights after each step of Muon.

    M <- mu M + (1 - mu) G, M = 0 at first; O = orthogonalize((1 - mu) G + mu M) with
    Nesterov, else orthogonalize(M); W <- (1 - lr weight_decay) W - lr ratio O, with
    ratio = shape_ratio. W and each gradient: (..., m, n); lr in weight units per unit
    of O. Source: torch.optim.Muon 2.13 (decay uses the unadjusted lr).
    """
    W_array = np.array(W, dtype=np.float64)
    M = np.zeros_like(W_array)
    ratio = shape_ratio(W_array.shape, adjust_lr_fn)
    weights = []
    for grad in grads:
        G = np.array(grad, dtype=np.float64)
        M = momentum * M + (1.0 - momentum) * G
        used = (1.0 - momentum) * G + momentum * M if nesterov else M
        O = np.asarray(orthogonalize(used.copy()), dtype=np.float64)  # noqa: E741
        W_array = W_array * (1.0 - lr * weight_decay) - lr * ratio * O
        weights.append(W_array)
    return weights


def adamw(
    W: ArrayLike,
    grads: Sequence[ArrayLike],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> list[Array]:
    """Weights after each step of AdamW, any shape.

    W <- (1 - lr weight_decay) W; m <- beta1 m + (1 - beta1) G;
    v <- beta2 v + (1 - beta2) G^2;
    W <- W - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps), t = 1, 2, ...
    Source: arXiv 1711.05101 Algorithm 2, with torch.optim.AdamW's decay by lr.
    """
    W_array = np.array(W, dtype=np.float64)
    first, second = np.zeros_like(W_array), np.zeros_like(W_array)
    weights = []
    for t, grad in enumerate(grads, start=1):
        G = np.array(grad, dtype=np.float64)
        W_array = W_array * (1.0 - lr * weight_decay)
        first = beta1 * first + (1.0 - beta1) * G
        second = beta2 * second + (1.0 - beta2) * G * G
        mean = first / (1.0 - beta1**t)
        root = np.sqrt(second / (1.0 - beta2**t))
        W_array = W_array - lr * mean / (root + eps)
        weights.append(W_array)
    return weights


def adam_on_sphere(
    W: ArrayLike,
    grads: Sequence[ArrayLike],
    *,
    lrs: Sequence[float],
    beta1: float,
    beta2: float,
    eps: float,
    dim: int | None,
) -> list[Array]:
    """Weights after each step of nGPT's training: Adam at its own rate, then w <- w / |w| along `dim`.

    m, v as in `adamw`, without decay; neither follows the projection. dim None: a
    parameter that is not made of unit vectors, only moved.
    Source: arXiv 2410.01131 section 2.6, steps 2, 6 and 7.
    """
    W_array = np.array(W, dtype=np.float64)
    first, second = np.zeros_like(W_array), np.zeros_like(W_array)
    weights = []
    for t, (grad, lr) in enumerate(zip(grads, lrs, strict=True), start=1):
        G = np.array(grad, dtype=np.float64)
        first = beta1 * first + (1.0 - beta1) * G
        second = beta2 * second + (1.0 - beta2) * G * G
        root = np.sqrt(second / (1.0 - beta2**t))
        W_array = W_array - lr * (first / (1.0 - beta1**t)) / (root + eps)
        if dim is not None:
            W_array = W_array / np.sqrt(np.sum(W_array * W_array, axis=dim, keepdims=True))
        weights.append(W_array)
    return weights


def clip_global_norm(grads: Sequence[ArrayLike], max_norm: float) -> tuple[list[Array], float]:
    """Gradients scaled together so that their joint norm is at most max_norm.

    norm = sqrt(sum of all squared entries); each G <- G min(1,
    max_norm / (norm + 1e-6)).
    Returns (scaled gradients, norm before scaling).
    Source: torch.nn.utils.clip_grad_norm_; arXiv 1211.5063 Algorithm 1, without 1e-6.
    """
    arrays = [np.array(g, dtype=np.float64) for g in grads]
    norm = math.sqrt(math.fsum(float(e) ** 2 for g in arrays for e in g.ravel()))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return [g * factor for g in arrays], norm


def normuon(
    O: ArrayLike,
    V: ArrayLike,
    beta2: float,
    floor: float = 1e-10,
    *,
    axis: str = "short-axis",
) -> tuple[Array, Array]:
    """Variance reduction of NorMuon, |O|_F kept.

    q = mean of O^2 over a line; "short-axis": lines are rows if m >= n, else columns;
    "rows": always rows. V' = beta2 V + (1 - beta2) q, no bias correction;
    P = O / sqrt(max(V', floor)); O' = P |O|_F / |P|_F. O: (..., m, n),
    V: (..., m, 1) for rows or (..., 1, n), zero at the first step. Returns (O', V').
    Source: arXiv 2510.05491 with the short axis of modded-nanogpt. Differs from the
    paper: the paper always takes one value per row.
    """
    if axis not in ("short-axis", "rows"):
        raise ValueError(f"unknown axis {axis!r}")
    O_array = np.array(O, dtype=np.float64)
    V_array = np.array(V, dtype=np.float64)
    m, n = O_array.shape[-2:]
    by_row = axis == "rows" or m >= n
    V_shape = (*O_array.shape[:-2], m, 1) if by_row else (*O_array.shape[:-2], 1, n)
    if V_array.shape != V_shape:
        raise ValueError(f"V has shape {V_array.shape}, expected {V_shape}")
    O_after, V_after = np.zeros_like(O_array), np.zeros_like(V_array)
    for index in np.ndindex(*O_array.shape[:-2]):
        lines = O_array[index] if by_row else O_array[index].T
        V_new = np.empty(len(lines))
        P = np.zeros_like(lines)
        for i, line in enumerate(lines):
            q = sum(float(e) ** 2 for e in line) / len(line)
            V_new[i] = beta2 * V_array[index].ravel()[i] + (1.0 - beta2) * q
            P[i] = line / math.sqrt(max(V_new[i], floor))
        if _frobenius(P) > 0.0:
            P = P * (_frobenius(lines) / _frobenius(P))
        O_after[index] = P if by_row else P.T
        V_after[index] = V_new.reshape(V_shape[-2:])
    return O_after, V_after


def cautious_decay(
    W: ArrayLike,
    O: ArrayLike,  # noqa: E741
    strength: float,
) -> Array:
    """Weight decay only where the coming step -O also shrinks the weight.

    W - strength * 1[O W >= 0] * W, elementwise. W, O: any one shape; strength is the
    whole factor (lr times weight decay). Source: arXiv 2510.12402, mask with >=.
    """
    W_array, O_array = np.array(W, dtype=np.float64), np.array(O, dtype=np.float64)
    result = W_array.copy()
    for index in np.ndindex(*W_array.shape):
        if O_array[index] * W_array[index] >= 0.0:
            result[index] = W_array[index] - strength * W_array[index]
    return result


def geodesic_step(W: ArrayLike, D: ArrayLike, lr: float, mode: str, dim: int) -> Array:
    """Each unit vector of W moved along the geodesic of its descent direction.

    u = D_w - <w, D_w> w; theta = lr ("lr") or lr |u| ("lr-norm"), radians;
    w <- w cos(theta) + (u / |u|) sin(theta); w stays where u is zero, that is where
    |u| <= 1e-12 |D_w|. W: unit vectors along dim; D = -O: the shape of W.
    Source: Absil et al., Optimization Algorithms on Matrix Manifolds (2008),
    section 5.4 (exponential map of the sphere).
    """
    if mode not in ("lr", "lr-norm"):
        raise ValueError(f"unknown mode {mode!r}")
    W_last = np.moveaxis(np.array(W, dtype=np.float64), dim, -1)
    D_last = np.moveaxis(np.array(D, dtype=np.float64), dim, -1)
    result = W_last.copy()
    for index in np.ndindex(*W_last.shape[:-1]):
        w, d = W_last[index], D_last[index]
        u = d - float(np.dot(w, d)) * w
        u_norm, d_norm = float(np.linalg.norm(u)), float(np.linalg.norm(d))
        if u_norm <= 1e-12 * d_norm:
            continue
        theta = lr if mode == "lr" else lr * u_norm
        result[index] = w * math.cos(theta) + (u / u_norm) * math.sin(theta)
    return np.moveaxis(result, -1, dim)


def carried(M: ArrayLike, W: ArrayLike, W_next: ArrayLike, how: str, dim: int) -> Array:
    """Momentum M after its vectors moved from x = N(W) to y = N(W_next).

    "none": M; "project": its tangent part at y; "parallel": its tangent part at x,
    transported along the shortest geodesic from x to y; "rotate": that, plus <x, M> y.
    W, W_next: vectors along dim of any length but zero. Source: Absil et al. (2008),
    sections 3.6 and 8.1.
    """
    if how not in ("none", "project", "parallel", "rotate"):
        raise ValueError(f"unknown transport {how!r}")
    M_array = np.array(M, dtype=np.float64)
    if how == "none":
        return M_array
    x, y = sphere.project(W, dim), sphere.project(W_next, dim)
    if how == "project":
        return sphere.tangent(y, M_array, dim)
    u = sphere.log(x, y, dim)
    theta = np.linalg.norm(u, axis=dim, keepdims=True)
    u = u / np.where(theta > 0.0, theta, 1.0)
    moved = sphere.transport(x, u, theta, sphere.tangent(x, M_array, dim), dim)
    if how == "rotate":
        moved = moved + (x * M_array).sum(axis=dim, keepdims=True) * y
    return moved


def capped(W: ArrayLike, W_next: ArrayLike, most: float, dim: int) -> Array:
    """W_next with no vector turned by more than `most` radians against that of W.

    A vector beyond it becomes |w| exp_x(most log_x(y) / |log_x(y)|), x and y being the
    unit vectors before and after. Source: arXiv 2608.01284, with the length of w kept.
    """
    W_array, result = np.array(W, dtype=np.float64), np.array(W_next, dtype=np.float64)
    x, y = sphere.project(W_array, dim), sphere.project(result, dim)
    phi = np.expand_dims(sphere.angle(x, y, dim), dim)
    beyond = np.broadcast_to(phi > most, result.shape)
    v = sphere.log(x, y, dim)
    there = sphere.exp(x, v * (most / np.where(phi > most, phi, 1.0)), dim)
    lengths = np.linalg.norm(W_array, axis=dim, keepdims=True)
    return np.where(beyond, lengths * there, result)


def sphere_muon(
    W: ArrayLike,
    grads: Sequence[ArrayLike],
    *,
    dim: int,
    lr: float,
    orthogonalize: Callable[[Array], Array],
    momentum: float = 0.95,
    nesterov: bool = True,
    tangent: str = "none",
    match_step: str = "none",
    normuon_axis: str | None = None,
    beta2: float = 0.95,
    adjust_lr_fn: str | None = "none",
    weight_decay: float = 0.0,
    cautious: bool = False,
    geodesic: str | None = None,
    momentum_transport: str = "none",
    max_angle: float | None = None,
) -> list[tuple[Array, Array]]:
    """(W, M) after each step of Muon with all its options, on one matrix (m, n).

    Tangent "gradient": G loses its part along each vector.
    M <- mu M + (1 - mu) G; X = (1 - mu) G + mu M with Nesterov, else M; tangent
    "before", "both": X loses its part along each vector; O = orthogonalize(X);
    match_step "rms": |O|_F = sqrt(min(m, n)); normuon; match_step "angle": the mean
    over the vectors of |u| / |w| is 1, u the tangent part of O, else O times shape_ratio;
    tangent "after", "both": O loses its part along each vector. Linear:
    W <- W - lr weight_decay mask W - lr O; geodesic: geodesic_step along
    -O - weight_decay mask W; mask = 1[O W >= 0] if cautious, else 1. max_angle:
    `capped`. Then `carried`.
    dim: that of the vectors; W may be off the sphere where geodesic is None.
    """
    W_array = np.array(W, dtype=np.float64)
    M = np.zeros_like(W_array)
    V: Array | None = None
    m, n = W_array.shape
    trace = []
    for grad in grads:
        G = np.array(grad, dtype=np.float64)
        unit = sphere.project(W_array, dim)
        if tangent == "gradient":
            G = sphere.tangent(unit, G, dim)
        M = momentum * M + (1.0 - momentum) * G
        X = (1.0 - momentum) * G + momentum * M if nesterov else M
        if tangent in ("before", "both"):
            X = sphere.tangent(unit, X, dim)
        O = np.asarray(orthogonalize(X.copy()), dtype=np.float64)
        if match_step == "rms":
            O = O * (math.sqrt(min(m, n)) / _frobenius(O))
        if normuon_axis is not None:
            if V is None:
                V = np.zeros((m, 1) if normuon_axis == "rows" or m >= n else (1, n))
            O, V = normuon(O, V, beta2, axis=normuon_axis)
        if match_step == "angle":
            u = np.linalg.norm(sphere.tangent(unit, O, dim), axis=dim)
            O = O / (u / np.linalg.norm(W_array, axis=dim)).mean()
        else:
            O = O * shape_ratio(W_array.shape, adjust_lr_fn)
        if tangent in ("after", "both"):
            O = sphere.tangent(unit, O, dim)
        mask = (np.sign(O) * np.sign(W_array) >= 0.0) if cautious else np.ones_like(W_array)
        if geodesic is None:
            W_next = W_array - lr * weight_decay * mask * W_array - lr * O
        else:
            W_next = geodesic_step(W_array, -O - weight_decay * mask * W_array, lr, geodesic, dim)
        if max_angle is not None:
            W_next = capped(W_array, W_next, max_angle, dim)
        M = carried(M, W_array, W_next, momentum_transport, dim)
        W_array = W_next
        trace.append((W_array, M))
    return trace
