"""Geometry of the unit sphere: pure functions on stacks of vectors along an explicit `dim`.

`x, y` are points (unit vectors), `u, v` tangent vectors, `theta` an angle in radians. *project* maps to the sphere,
*tangent* to the tangent space, and *retract* moves and then projects. Everything is computed in float32 (float64 stays
float64). Vectors are returned in the input's dtype, so a bfloat16 caller pays for one rounding, not five; lengths,
inner products and angles in at least float32. Nothing is in place.

Source of the formulas: N. Boumal, An Introduction to Optimization on Smooth Manifolds (2023), section 3 and ch. 10.
"""

import torch
from torch import Tensor

UNIT_TINY = 1e-18
"""A vector no longer than this has no direction, as its square is near the end of float32's range; it is left as is."""

NOISE = 16.0
"""A tangent has no direction if it is shorter than this many rounding errors of the vector it was taken from."""


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def norm(x: Tensor, *, dim: int) -> Tensor:
    """Return the length of each vector along `dim`, kept as a dimension of size 1, in at least float32."""
    return torch.linalg.vector_norm(_wide(x), dim=dim, keepdim=True)


def inverse_length(x: Tensor, *, dim: int) -> Tensor:
    """Return 1 / |x| for each vector along `dim`, kept as a dimension of size 1; 1 where x has no direction."""
    return inverse(norm(x, dim=dim))


def inverse(length: Tensor) -> Tensor:
    """Return 1 / length, or 1 for the length of a vector without direction; NaN for NaN."""
    return torch.threshold(length, UNIT_TINY, 1.0).reciprocal()


def inner(x: Tensor, y: Tensor, *, dim: int) -> Tensor:
    """Return the inner product <x, y> along `dim`, kept as a dimension of size 1, in at least float32."""
    return (_wide(x) * _wide(y)).sum(dim=dim, keepdim=True)


def project(x: Tensor, *, dim: int) -> Tensor:
    """Return the nearest point of the sphere, x / |x|, for |x| whose square is finite.

    A vector without direction stays, with a finite gradient.
    """
    return (_wide(x) * inverse_length(x, dim=dim)).to(x.dtype)


def tangent(x: Tensor, v: Tensor, *, dim: int) -> Tensor:
    """Project an ambient v to the tangent space at N(x): v - (<x, v> / <x, x>) x, the part of v orthogonal to x.

    On the sphere <x, x> is 1 up to rounding. Dividing by it keeps that rounding from growing over a run, and gives the
    right tangent for a weight that has drifted off the sphere between two projections.
    """
    x_wide = _wide(x)
    along = inner(x, v, dim=dim) / inner(x, x, dim=dim).clamp_min(UNIT_TINY**2)
    return torch.addcmul(_wide(v), x_wide, along, value=-1).to(v.dtype)


def retract(x: Tensor, v: Tensor, *, dim: int) -> Tensor:
    """Move along v and project: (x + v) / |x + v|. For tangent v this agrees with `exp` to second order in |v|."""
    return project(_wide(x) + _wide(v), dim=dim).to(x.dtype)


def exp(x: Tensor, v: Tensor, *, dim: int) -> Tensor:
    """Follow the geodesic from x along v, which must be tangent at x, for |v| radians.

    Returns x cos|v| + v sin|v| / |v|; v = 0 gives x itself.
    """
    theta = norm(v, dim=dim)
    return (_wide(x) * torch.cos(theta) + _wide(v) * torch.sinc(theta / torch.pi)).to(x.dtype)


def geodesic(x: Tensor, u: Tensor, theta: Tensor | float, *, dim: int) -> Tensor:
    """Rotate x by `theta` radians toward a tangent u: N(x) cos(theta) + (u / |u|) sin(theta).

    theta broadcasts against |u|. Where u has no direction or theta is 0, x stays.

    Computed as x + ((u / |u|) sin(theta) - s x) with s = 1 - cos(theta) / |x|, so that a small step is as accurate as
    the dtype can store. Starting at N(x) rather than x removes the rounding of |x| in each step. It would otherwise
    accumulate, to 1e-5 in 10,000 float32 steps with repeating gradients.
    """
    length = norm(u, dim=dim)
    theta = torch.where(length > UNIT_TINY, torch.as_tensor(theta, dtype=length.dtype, device=length.device), 0.0)
    towards = _wide(u) / length.clamp_min(UNIT_TINY)
    shrink = _shrink(inner(x, x, dim=dim), theta)
    return (_wide(x) + (towards * torch.sin(theta) - shrink * _wide(x))).to(x.dtype)


def _shrink(square: Tensor, theta: Tensor) -> Tensor:
    """Return 1 - cos(theta) / |x| for |x|^2 = `square`, without cancellation; 0 where theta is 0."""
    excess = square - 1
    divisor = (square.sqrt() + square).clamp_min(UNIT_TINY)
    too_long = excess / divisor  # 1 - 1 / |x|; for |x| near 1, with half the rounding of that quotient
    versine = 2 * torch.sin(theta / 2).square()
    return torch.where(theta != 0, torch.addcmul(versine, 1 - versine, too_long), 0.0)


def turn(x: Tensor, v: Tensor, rate: Tensor | float, *, fixed_angle: bool, dim: int) -> Tensor:
    """Rotate x along the geodesic in the direction of u, the tangent part of an ambient v.

    The angle is `rate` radians with `fixed_angle`, else rate |u|; a negative rate turns the other way. Where u is zero,
    or only the rounding of a v parallel to x, x stays.

    The same as `tangent` twice, because the rounding of a near-radial v is not tangent, and then `geodesic`, in a
    third of the passes over memory. The second tangent u - r x, r = <x, u> / <x, x>, is never formed:
    |u - r x|^2 = |u|^2 - r <x, u>, without cancellation as r is a rounding, and r joins the factor of x. Likewise
    |v|^2 = |u|^2 + <x, v>^2 / <x, x>.
    """
    wide, square = _wide(x), inner(x, x, dim=dim)
    divisor = square.clamp_min(UNIT_TINY**2)
    radial = inner(x, v, dim=dim)
    along = radial / divisor
    u = torch.addcmul(_wide(v), wide, along, value=-1)
    rest = inner(x, u, dim=dim)
    r, u_square = rest / divisor, inner(u, u, dim=dim)
    length_square = torch.addcmul(u_square, r, rest, value=-1)
    rounding = torch.addcmul(u_square, along, radial) * (NOISE * torch.finfo(u.dtype).eps) ** 2
    directed = length_square > rounding.clamp_min(UNIT_TINY**2)
    length = length_square.clamp_min(UNIT_TINY**2).sqrt()
    theta = rate * (directed.to(length.dtype) if fixed_angle else directed * length)
    stretch = torch.sin(theta) / length
    back = torch.addcmul(_shrink(square, theta), stretch, r)
    # x cos(theta) + (u / |u|) sin(theta), as x + stretch u - back x
    return (wide + torch.addcmul(stretch * u, wide, back, value=-1)).to(x.dtype)


def log(x: Tensor, y: Tensor, *, dim: int) -> Tensor:
    """Return the tangent v at x with exp(x, v) = y, whose length is the angle between x and y; 0 where y = x.

    The logarithm of an antipodal point is not unique; the result is then an arbitrary vector of finite length.
    """
    u = tangent(_wide(x), _wide(y) - _wide(x), dim=dim)  # taken of the difference: no cancellation when y is near x
    return (u * (angle(x, y, dim=dim, keepdim=True) / norm(u, dim=dim).clamp_min(UNIT_TINY))).to(x.dtype)


def transport(x: Tensor, u: Tensor, theta: Tensor | float, v: Tensor, *, dim: int) -> Tensor:
    """Transport a tangent v in parallel along the geodesic from x in direction u by theta radians.

    With e = u / |u|: v + <e, v> (e (cos theta - 1) - x sin theta). Lengths and angles are preserved; u = 0 leaves v.
    """
    length = norm(u, dim=dim)
    theta = torch.where(length > UNIT_TINY, torch.as_tensor(theta, dtype=length.dtype, device=length.device), 0.0)
    e = _wide(u) / length.clamp_min(UNIT_TINY)
    along = inner(e, v, dim=dim)
    return (_wide(v) + along * (e * (torch.cos(theta) - 1) - _wide(x) * torch.sin(theta))).to(v.dtype)


def rotate(x: Tensor, y: Tensor, v: Tensor, *, dim: int, radial: bool = True) -> Tensor:
    """Turn an ambient v as the plane of x and y turns when x goes to y: v - 2 (<z, v> / <z, z>) z + 2 <x, v> y.

    z = x + y. Two reflections, along x and along z, are this rotation. Of a tangent v it is `transport` from x to y.
    Without `radial` the part of v along x, which becomes <x, v> y, is dropped. The rotation to an antipodal point is
    not unique; the result is then finite.
    """
    z = _wide(x) + _wide(y)
    across = inner(z, v, dim=dim) * (2 / inner(z, z, dim=dim).clamp_min(UNIT_TINY**2))
    along = inner(x, v, dim=dim) * (2 if radial else 1)
    return torch.addcmul(torch.addcmul(_wide(v), z, across, value=-1), _wide(y), along).to(v.dtype)


def angle(x: Tensor, y: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    """Return the geodesic distance 2 atan2(|x - y|, |x + y|) in radians, in [0, pi], in float32 or float64.

    In float32 at 1e-3 rad its relative error is below 1e-5, while arccos<x, y> is off by 15% (d = 768).
    """
    x, y = _wide(x), _wide(y)
    theta = 2 * torch.atan2(norm(x - y, dim=dim), norm(x + y, dim=dim))
    return theta if keepdim else theta.squeeze(dim)
