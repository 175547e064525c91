"""The steps of SimpleMuon: one pure function each, on stacks of same-shape matrices (..., m, n).

`W` weights, `G` gradients, `M` momentum, `O` orthogonalised momentum, `D = -O` the descent direction, `dim` the
dimension along which the unit vectors of W lie. Rates and mu are numbers, or tensors of no dimension. No argument is
written to but `out`, where the result goes if it is given; it may be the first argument. The order in which an
optimizer applies them is `ngpt.optim.muon.SimpleMuon`.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ngpt import sphere
from ngpt.config import GeodesicAngle, NorMuonAxis, Transport

AdjustLr = Literal["none", "original", "match_rms_adamw"]

VARIANCE_FLOOR = 1e-10
"""Smallest second moment that NorMuon divides by, as in modded-nanogpt; a polar factor's is 1 / max(m, n)."""


def momentum(M: Tensor, G: Tensor, mu: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """M <- mu M + (1 - mu) G, an exponential moving average, as in torch.optim.Muon."""
    return torch.lerp(M, G, _weight(1 - mu, M), out=out)


def nesterov(M: Tensor, G: Tensor, mu: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """(1 - mu) G + mu M with the already updated M: what Nesterov's momentum hands to the orthogonaliser."""
    return torch.lerp(G, M, _weight(mu, M), out=out)


def _weight(value: float | Tensor, like: Tensor) -> float | Tensor:
    """torch.lerp takes a number, or a tensor of its arguments' dtype."""
    return value.to(like.dtype) if isinstance(value, Tensor) else value


def _frobenius(X: Tensor) -> Tensor:
    """|X|_F of each matrix. On a CPU torch's own adds in one row: 4e-5 off at 3072 x 768 in float32, this is not."""
    return X.square().sum(dim=(-2, -1), keepdim=True).sqrt()


def match_rms(O: Tensor) -> Tensor:
    """O scaled to |O|_F = sqrt(min(m, n)), the norm of an exact polar factor; a zero matrix stays zero.

    Two orthogonalisers are then compared at one step size: five cubic Newton-Schulz steps are otherwise 4x shorter.
    In at least float32, as a factor near 1 would round bfloat16 entries back to where they were.
    """
    target = math.sqrt(min(O.shape[-2:]))
    length = _frobenius(O.to(torch.promote_types(O.dtype, torch.float32)))
    return O * torch.where(length > sphere.UNIT_TINY, target / length, 1.0)


def match_angle(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    """O scaled so that a linear step of length lr rotates the unit vectors of each matrix by lr radians on average.

    The mean over them of |u| / |w| becomes 1, u the part of O orthogonal to w. Exact in mode "lr-norm" of the geodesic
    step; a linear step rotates by that to first order in lr. The length of O, and so the shape factor, cancels. In at
    least float32.
    """
    turn = sphere.norm(sphere.tangent(W, O.to(W.dtype), dim=dim), dim=dim) * sphere.inverse_length(W, dim=dim)
    mean = turn.mean(dim=(-2, -1), keepdim=True)
    return O * torch.where(mean > sphere.UNIT_TINY, 1 / mean, 1.0)


def second_moment_shape(shape: torch.Size, axis: NorMuonAxis) -> tuple[int, int]:
    """Shape of NorMuon's state for a matrix (..., m, n): one value a row, or a column where "short-axis" and m < n."""
    m, n = shape[-2:]
    return (m, 1) if axis == "rows" or m >= n else (1, n)


def variance_reduction(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """NorMuon: divide the rows (or columns) of O by the root of their running second moment, keep |O|_F.

        q = mean of O^2 over a row,  V <- beta2 V + (1 - beta2) q,  P = O / sqrt(max(V, 1e-10)),  O' = P |O|_F / |P|_F

    V: (..., m, 1) for rows or (..., 1, n) for columns (`second_moment_shape`), in at least float32, zero at first; no
    bias correction, which would cancel in O'. Returns (O', V'). The rows of a wide or square matrix's exact polar
    factor have length 1 already: there it changes nothing.

    Source: Li et al., arXiv 2510.05491. Differs from the paper: over the shorter side, as in modded-nanogpt, unless
    NorMuonAxis "rows" is asked for.
    """
    wide = O.to(V.dtype)
    V = torch.lerp(V, wide.square().mean(dim=-1 if V.size(-1) == 1 else -2, keepdim=True), 1 - beta2)
    P = wide * V.clamp_min(VARIANCE_FLOOR).rsqrt()
    before, after = _frobenius(wide), _frobenius(P)
    return (P * torch.where(after > sphere.UNIT_TINY, before / after, 1.0)).to(O.dtype), V


def shape_factor(shape: torch.Size, rule: AdjustLr | None) -> float:
    """Factor on the step of a matrix (..., m, n), as `adjust_lr_fn` in torch.optim.Muon.

    None, "original": sqrt(max(1, m/n)), K. Jordan 2024. "match_rms_adamw": 0.2 sqrt(max(m, n)), arXiv 2502.16982.
    "none", which torch does not have: 1.
    """
    m, n = shape[-2:]
    match rule:
        case "none":
            return 1.0
        case None | "original":
            return math.sqrt(max(1, m / n))
        case "match_rms_adamw":
            return 0.2 * math.sqrt(max(m, n))
    raise ValueError(f"unknown adjust_lr_fn: {rule!r}")


def decay_mask(W: Tensor, O: Tensor) -> Tensor:
    """Where cautious weight decay acts: O W >= 0, so that the coming step -O does not already lengthen the entry.

    By sign, so that no product underflows; an entry of zero decays, as in modded-nanogpt. Source: arXiv 2510.12402.
    """
    return W.sign() * O.sign() >= 0


def decay(W: Tensor, lr: float | Tensor, weight_decay: float, mask: Tensor | None = None) -> Tensor:
    """Decoupled weight decay with the unadjusted rate: W (1 - lr wd), as in torch.optim.Muon and AdamW.

    mask: entries that decay; None: all. On the sphere, followed by projection, decay of all entries only lengthens the
    step to lr / (1 - lr wd); only a masked one has a direction.
    """
    if not weight_decay:
        return W
    decayed = W * (1 - lr * weight_decay)
    return decayed if mask is None else torch.where(mask, decayed, W)


def linear_move(W: Tensor, O: Tensor, lr: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """W + lr D, the straight step. It leaves the sphere: |w|^2 becomes 1 + lr^2 |o|^2 - 2 lr <w, o>."""
    if isinstance(lr, Tensor):
        return torch.addcmul(W, O.to(W.dtype), lr.to(W.dtype), value=-1, out=out)
    return torch.add(W, O.to(W.dtype), alpha=-lr, out=out)


def geodesic_move(W: Tensor, O: Tensor, lr: float | Tensor, angle: GeodesicAngle, *, dim: int) -> Tensor:
    """Rotate each unit vector w of W along the geodesic that leaves it in the direction of descent.

        u = D_w - <w, D_w> w,   theta = lr ("lr") or lr |u| ("lr-norm"),   w <- w cos(theta) + (u / |u|) sin(theta)

    lr, theta: radians. W stays on the sphere to rounding for any number of steps. Where u is zero, or no more than
    rounding of a D_w that is parallel to w, w stays as it is.

    Source: the sphere's exponential map, Boumal 2023, example 10.21 ("lr-norm": exp_w(lr u)).
    """
    return sphere.turn(W, -O.to(W.dtype), lr, fixed_angle=angle == "lr", dim=dim)


def transport(M: Tensor, W_before: Tensor, W_after: Tensor, how: Transport, *, dim: int) -> Tensor:
    """Bring the momentum along with the unit vectors that moved from x = N(W_before) to y = N(W_after).

    "project" drops its part along y. "parallel" drops its part along x and moves the rest along the geodesic from x to
    y: tangent at y, lengths and angles kept. "rotate" turns all of it as x turns into y: as "parallel", and what lay
    along x lies along y. "none" leaves M.
    """
    if how == "none":
        return M
    if how == "project":
        return sphere.tangent(W_after, M, dim=dim)
    x, y = (sphere.project(W, dim=dim) for W in (W_before, W_after))
    u = sphere.log(x, y, dim=dim)
    moved = sphere.transport(x, u, sphere.norm(u, dim=dim), sphere.tangent(x, M, dim=dim), dim=dim)
    return moved if how == "parallel" else moved + (sphere.inner(x, M, dim=dim) * y).to(M.dtype)
