"""Float64 oracle of the geometry of the unit sphere, one vector at a time.

Legend: x, y points (unit vectors along `dim`); u, v tangents; theta in radians.
Every array of one call has one shape (..., n, ...), the n entries along `dim` being
one vector. Nothing is done in place. Sources: Absil, Mahony and Sepulchre,
Optimization Algorithms on Matrix Manifolds (2008), the sphere examples of sections
3.6, 4.1, 5.4 and 8.1; arXiv 2410.01131 Appendix A.3 for the tangent step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _dot(a: Array, b: Array) -> float:
    """<a, b> of two vectors (n,), summed with one rounding."""
    return math.fsum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def _norm(a: Array) -> float:
    """|a| of one vector (n,), scaled by its largest entry so tiny a is not lost."""
    largest = max((abs(float(p)) for p in a), default=0.0)
    if largest == 0.0:
        return 0.0
    return largest * math.sqrt(_dot(a / largest, a / largest))


def _each_vector(dim: int, rule: Callable[..., Array], *arrays: ArrayLike) -> Array:
    """Apply rule to every vector along dim of same-shape arrays."""
    last = [np.moveaxis(np.array(a, dtype=np.float64), dim, -1) for a in arrays]
    for a in last[1:]:
        if a.shape != last[0].shape:
            raise ValueError(f"shapes differ: {last[0].shape} and {a.shape}")
    result = np.empty(last[0].shape)
    for index in np.ndindex(*last[0].shape[:-1]):
        result[index] = rule(*(a[index] for a in last))
    return np.moveaxis(result, -1, dim)


def _each_angle(theta: ArrayLike, shape: tuple[int, ...], dim: int) -> Array:
    """Spread theta (scalar, shape without dim, or dim of length 1) to a full shape."""
    theta_array = np.array(theta, dtype=np.float64)
    if theta_array.ndim == len(shape) - 1 and theta_array.ndim > 0:
        theta_array = np.expand_dims(theta_array, dim)
    return np.array(np.broadcast_to(theta_array, shape))


def project(x: ArrayLike, dim: int) -> Array:
    """Nearest point of the sphere.

    x / |x|. x: (..., n, ...) not zero. Returns the shape of x.
    Raises ValueError for a zero vector, which has no nearest point.
    Source: `Norm` of arXiv 2410.01131 section 2.
    """

    def rule(a: Array) -> Array:
        if _norm(a) == 0.0:
            raise ValueError("a zero vector has no projection on the sphere")
        return a / _norm(a)

    return _each_vector(dim, rule, x)


def tangent(x: ArrayLike, v: ArrayLike, dim: int) -> Array:
    """Orthogonal projection of v on the tangent space at x.

    v - <v, x> x. x: unit vectors, v: any, both (..., n, ...).
    Source: Absil et al. (2008) section 3.6; arXiv 2410.01131 Appendix A.3.
    """
    return _each_vector(dim, lambda a, b: b - _dot(b, a) * a, x, v)


def exp(x: ArrayLike, v: ArrayLike, dim: int) -> Array:
    """Point reached after |v| radians along the geodesic from x towards v.

    x cos|v| + (v / |v|) sin|v|; zero v leaves x. x: unit, v: tangent at x,
    both (..., n, ...). Source: Absil et al. (2008) section 5.4.
    """

    def rule(a: Array, b: Array) -> Array:
        theta = _norm(b)
        if theta == 0.0:
            return a
        return a * math.cos(theta) + (b / theta) * math.sin(theta)

    return _each_vector(dim, rule, x, v)


def log(x: ArrayLike, y: ArrayLike, dim: int) -> Array:
    """Tangent at x whose exp is y: the inverse of exp for angles below pi.

    theta * w / |w|, w = (y - x) - <y - x, x> x, theta = angle(x, y); zero for y = x.
    x, y: unit, (..., n, ...). Raises ValueError for y = -x, where no direction is
    preferred. Source: Absil et al. (2008) section 5.4, inverted.
    """

    def rule(a: Array, b: Array) -> Array:
        difference = b - a
        w = difference - _dot(difference, a) * a
        theta = _angle(a, b)
        if theta == 0.0:
            return np.zeros_like(a)
        if math.pi - theta < 1e-12:
            raise ValueError("antipodal points have no logarithm")
        return theta * w / _norm(w)

    return _each_vector(dim, rule, x, y)


def transport(x: ArrayLike, u: ArrayLike, theta: ArrayLike, v: ArrayLike, dim: int) -> Array:
    """Exact parallel transport of v along the geodesic from x in direction u.

    v - <u, v> u + <u, v> (u cos(theta) - x sin(theta)). The end point is
    x cos(theta) + u sin(theta). x: unit; u: unit tangent at x (zero u leaves v);
    v: tangent at x, all (..., n, ...); theta: radians, a scalar, or the shape of x
    without dim, or with dim of length 1. Isometric for tangent v.
    Source: Absil et al. (2008) section 8.1.
    """
    shape = np.asarray(x).shape

    def rule(a: Array, b: Array, angles: Array, c: Array) -> Array:
        t = float(angles[0])
        along = _dot(b, c)
        return c - along * b + along * (b * math.cos(t) - a * math.sin(t))

    return _each_vector(dim, rule, x, u, _each_angle(theta, shape, dim), v)


def _angle(a: Array, b: Array) -> float:
    """Angle of two unit vectors (n,), in radians, accurate near 0 and near pi."""
    return 2.0 * math.atan2(_norm(a - b), _norm(a + b))


def angle(x: ArrayLike, y: ArrayLike, dim: int) -> Array:
    """Geodesic distance in radians, in [0, pi].

    2 atan2(|x - y|, |x + y|). x, y: unit, (..., n, ...). Returns their shape
    without dim. Source: Kahan, How Futile are Mindless Assessments of Roundoff
    in Floating-Point Computation? (2006), section 12.
    """
    full = _each_vector(dim, lambda a, b: np.full_like(a, _angle(a, b)), x, y)
    result: Array = np.take(full, 0, axis=dim)
    return result


def retract(x: ArrayLike, v: ArrayLike, dim: int) -> Array:
    """Projective retraction: move in the ambient space and land.

    (x + v) / |x + v|. x: unit, v: any with x + v not zero, both (..., n, ...).
    For tangent v the angle moved is atan|v|. Source: Absil et al. (2008)
    section 4.1; NVIDIA/ngpt train.py, normalization after each step.
    """
    x_array, v_array = np.array(x, dtype=np.float64), np.array(v, dtype=np.float64)
    return project(x_array + v_array, dim)
