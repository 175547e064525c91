"""The steps of SimpleMuon: one function each, on stacks of same-shape matrices (..., m, n).

`W` weights, `G` gradients, `M` momentum, `O` orthogonalized momentum, `D = -O` the descent direction, `dim` the
dimension along which the unit vectors of W lie. Rates and mu are numbers or 0-dimensional tensors. A function writes
only to `out`, where the result goes if it is given; `out` may be the first argument. The exception is
`momentum_and_look_ahead`, which also updates M. A step that has a Triton kernel
(`ngpt.kernels`) chooses by itself between the kernel and torch. `ngpt.optim.rule` says in which order they act.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ngpt import kernels, sphere
from ngpt.config import GeodesicAngle, NorMuonAxis, Transport, step_options
from ngpt.kernels.twins import lerp

AdjustLr = Literal["none", "original", "match_rms_adamw"]

StateTypes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor that an optimizer keeps for a parameter, by key"""

STATE = ("momentum_buffer", "second_momentum_buffer")
"""Keys of the tensors that SimpleMuon may keep for a matrix; `state_types` says which, and of what type"""

VARIANCE_FLOOR = 1e-10
"""Smallest second moment that NorMuon divides by, as in modded-nanogpt; a polar factor's is 1 / max(m, n)."""


def momentum(M: Tensor, G: Tensor, mu: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return mu M + (1 - mu) G, an exponential moving average, as in torch.optim.Muon."""
    return lerp(M, G, 1 - mu, out=out)


def look_ahead(M: Tensor, G: Tensor, mu: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return (1 - mu) G + mu M for the already updated M: the polar factor's input under Nesterov momentum."""
    return lerp(G, M, mu, out=out)


def momentum_and_look_ahead(
    M: Tensor, G: Tensor, mu: float | Tensor, *, nesterov: bool, out: Tensor
) -> Tensor | None:
    """Update M in place and write to `out` what the polar factor takes: the look-ahead, or M without `nesterov`.

    M, G, out: one matrix (m, n), or shards of one. A kernel makes one pass over memory, rounds once to the dtype of
    `out` and returns |out|_F, () in float32; torch makes two passes and returns None.
    """
    if kernels.elementwise_runs(M) and M.is_contiguous() and out.is_contiguous():
        return kernels.elementwise().momentum_step_(M, G, mu, nesterov=nesterov, out=out)
    momentum(M, G, mu, out=M)
    if nesterov and out.dtype == M.dtype:
        look_ahead(M, G, mu, out=out)
    else:
        out.copy_(look_ahead(M, G, mu) if nesterov else M)
    return None


def _frobenius(X: Tensor) -> Tensor:
    """Return |X|_F of each matrix. On a CPU torch's own norm keeps one running sum: 4e-5 off at 3072 x 768."""
    return X.square().sum(dim=(-2, -1), keepdim=True).sqrt()


def _length(x: Tensor, dim: int) -> Tensor:
    """Return `sphere.norm` by torch's sums: along columns, its norm takes 10 to 20 times as long on a CPU."""
    return sphere.inner(x, x, dim=dim).sqrt()


def match_rms(O: Tensor) -> Tensor:
    """Scale O to |O|_F = sqrt(min(m, n)), the norm of an exact polar factor; a zero matrix stays zero.

    Two orthogonalizers are then compared at one step size: five cubic Newton-Schulz steps are otherwise several times
    shorter. With fewer than min(m, n) directions in O, as in the first step of a small batch, this lengthens an exact
    factor too.
    The result is at least float32: in bfloat16 a factor near 1 would round entries back to where they were.
    """
    target = math.sqrt(min(O.shape[-2:]))
    length = _frobenius(O.to(torch.promote_types(O.dtype, torch.float32)))
    return O * torch.where(length > sphere.UNIT_TINY, target / length, 1.0)


def match_angle(W: Tensor, O: Tensor, *, dim: int) -> Tensor:
    """Scale O so that a linear step of length lr rotates the unit vectors of each matrix by lr radians on average.

    The mean of |u| / |w| over the vectors becomes 1, where u is the part of O orthogonal to w. The angle is exact for
    the geodesic step "lr-norm" and holds to first order in lr for a linear step. The length of O cancels, and with it
    the shape factor. The result is at least float32.
    """
    turn = _length(sphere.tangent(W, O.to(W.dtype), dim=dim), dim) * sphere.inverse(_length(W, dim))
    mean = turn.mean(dim=(-2, -1), keepdim=True)
    return O * torch.where(mean > sphere.UNIT_TINY, 1 / mean, 1.0)


def second_moment_shape(shape: torch.Size, axis: NorMuonAxis) -> tuple[int, int]:
    """Return the shape of NorMuon's state for a matrix (..., m, n): (m, 1), or (1, n) for "short-axis" and m < n."""
    m, n = shape[-2:]
    return (m, 1) if axis == "rows" or m >= n else (1, n)


def variance_reduction(O: Tensor, V: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """Divide the rows (or columns) of O by the root of their running second moment and keep |O|_F: NorMuon.

        q = mean of O^2 over a row,  V <- beta2 V + (1 - beta2) q,  P = O / sqrt(max(V, 1e-10)),  O' = P |O|_F / |P|_F

    V: (..., m, 1) for rows or (..., 1, n) for columns (`second_moment_shape`), at least float32, zero at first. There
    is no bias correction, which would cancel in O'. Returns (O', V'). The exact polar factor of a wide or square matrix
    of full rank already has rows of length 1, so there the step over rows changes nothing.

    Source: Li et al., arXiv 2510.05491. Differs from the paper: averages over the shorter side, as modded-nanogpt does,
    unless the option is "rows"; keeps |O|_F, as the authors' code does, where the paper sets it to 0.2 sqrt(m n).
    """
    wide = O.to(V.dtype)
    q = wide.square().mean(dim=-1 if V.size(-1) == 1 else -2, keepdim=True)
    V = torch.lerp(V, q, 1 - beta2)
    scale = V.clamp_min(VARIANCE_FLOOR).rsqrt()
    per_line = O.size(-1) if V.size(-1) == 1 else O.size(-2)
    before, after = (  # |O|_F and |P|_F from the means, without another pass over O
        (per_line * squares.sum(dim=(-2, -1), keepdim=True)).sqrt() for squares in (q, q * scale.square())
    )
    return (wide * (scale * torch.where(after > sphere.UNIT_TINY, before / after, 1.0))).to(O.dtype), V


def shape_factor(shape: torch.Size, rule: AdjustLr | None) -> float:
    """Return the factor on the step of a matrix (..., m, n), as `adjust_lr_fn` in torch.optim.Muon.

    None, "original": sqrt(max(1, m/n)), K. Jordan 2024. "match_rms_adamw": 0.2 sqrt(max(m, n)), arXiv 2502.16982.
    "none", which torch does not have: 1. Raises ValueError for any other rule.
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
    """Return where cautious weight decay acts: O W >= 0, where the step -O does not move the entry away from zero.

    Multiplies by a sign, so that no product underflows. An entry of zero decays, as in modded-nanogpt. Source: arXiv
    2510.12402.
    """
    return W.sign() * O >= 0


def decay(W: Tensor, lr: float | Tensor, weight_decay: float, mask: Tensor | None = None) -> Tensor:
    """Return W (1 - lr wd): decoupled decay with the unadjusted rate, as in torch.optim.Muon and AdamW.

    mask: entries that decay; None: all. On the sphere with projection, decay of all entries only lengthens the step to
    lr / (1 - lr wd); masked decay has a direction of its own.
    """
    if not weight_decay:
        return W
    decayed = W * (1 - lr * weight_decay)
    return decayed if mask is None else torch.where(mask, decayed, W)


def with_decay(O: Tensor, W: Tensor, weight_decay: float, mask: Tensor) -> Tensor:
    """Return O + wd (mask W): the direction of a geodesic step that also decays the masked entries."""
    return O + weight_decay * (mask * W)


def linear_move(W: Tensor, O: Tensor, lr: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return W + lr D, the straight step. It leaves the sphere: |w|^2 becomes 1 + lr^2 |o|^2 - 2 lr <w, o>."""
    if isinstance(lr, Tensor):
        return torch.addcmul(W, O.to(W.dtype), lr.to(W.dtype), value=-1, out=out)
    return torch.add(W, O.to(W.dtype), alpha=-lr, out=out)


def geodesic_move(
    W: Tensor, O: Tensor, lr: float | Tensor, angle: GeodesicAngle, *, dim: int, factor: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Rotate each unit vector w of W along the geodesic that leaves it in the direction of descent.

        D = -factor O,   u = D_w - <w, D_w> w,   w <- w cos(theta) + (u / |u|) sin(theta)
        theta = lr ("lr") or lr |u| ("lr-norm")

    lr, theta: radians. W stays on the sphere to rounding for any number of steps. Where u is zero, or no more than
    rounding of a D_w that is parallel to w, w stays as it is. A kernel runs where `out` is W.

    Source: the exponential map of the sphere, Boumal 2023, example 10.21 ("lr-norm": exp_w(lr u)).
    """
    fixed_angle = angle == "lr"
    if out is W and kernels.elementwise_runs(W, W.size(dim)):
        return kernels.elementwise().geodesic_move_(W, O, lr, factor, fixed_angle=fixed_angle, dim=dim)
    rate = -lr if fixed_angle else -lr * factor  # a negative rate turns against O, which need not be scaled then
    moved = sphere.turn(W, O.to(W.dtype), rate, fixed_angle=fixed_angle, dim=dim)
    return moved if out is None else out.copy_(moved)


def cap_angle(W_before: Tensor, W_after: Tensor, most: float, *, dim: int) -> Tensor:
    """Return W_after, with each vector that turned by more than `most` radians turned by just that.

        u = y - <y, x> x,   phi = atan2(|u|, <y, x>),   y <- |w| (x cos(most) + (u / |u|) sin(most)) where phi > most

    x = N(w) for w of W_before, y of W_after; a vector that is turned back has the length of w. Beyond a right angle the
    two-argument arctangent stays right, for any length of y. A vector turned by pi has no u but rounding: it stays as
    it was.

    Source: Loshchilov and Ginsburg, arXiv 2608.01284, who normalize next; here lazy projection does.
    """
    length = _length(W_before, dim)
    x = W_before * sphere.inverse(length)
    along = sphere.inner(x, W_after, dim=dim)
    u = W_after - along * x
    across = _length(u, dim)
    capped = length * (x * math.cos(most) + u * (sphere.inverse(across) * math.sin(most)))
    rounding = sphere.NOISE * torch.finfo(across.dtype).eps * _length(W_after, dim)
    capped = torch.where(across > rounding.clamp_min(sphere.UNIT_TINY), capped, W_before)
    beyond = (torch.atan2(across, along) > most) & (length > sphere.UNIT_TINY)
    return torch.where(beyond, capped, W_after).to(W_after.dtype)


def transport(M: Tensor, W_before: Tensor, W_after: Tensor, how: Transport, *, dim: int) -> Tensor:
    """Carry the momentum along with unit vectors that moved from x = N(W_before) to y = N(W_after).

    "project" drops its part along y. "parallel" drops its part along x and moves the rest along the geodesic from x to
    y, which keeps lengths and angles. "rotate" turns all of it as x turns into y: it does what "parallel" does, and the
    part along x becomes a part along y. "none" returns M.
    """
    if how == "none":
        return M
    if how == "project":
        return sphere.tangent(W_after, M, dim=dim)
    x, y = (W * sphere.inverse(_length(W, dim)) for W in (W_before, W_after))
    return sphere.rotate(x, y, M, dim=dim, radial=how == "rotate")


# --- what a group's options need -------------------------------------------------------------------------------------


def state_types(W: Tensor, o: Mapping[str, Any], *, gradient: torch.dtype | None = None) -> StateTypes:
    """Return the shape and dtype of each state tensor of a matrix W (m, n).

    gradient: dtype of its gradients; None: that of W.
    """
    types: StateTypes = {"momentum_buffer": (tuple(W.shape), gradient or W.dtype)}
    if o["normuon"] is not None:
        shape = second_moment_shape(W.shape, o["normuon"])
        types["second_momentum_buffer"] = shape, torch.promote_types(W.dtype, torch.float32)
    return types


def state_after_polar(o: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the keys of the state that `rule.refine` reads and writes, and of the state that `rule.apply` does."""
    refined = ["second_momentum_buffer"] if o["normuon"] is not None else []
    applied = ["momentum_buffer"] if o["momentum_transport"] != "none" else []
    return refined, applied


def reading_weights(o: Mapping[str, Any]) -> set[str]:
    """Return the options of a SimpleMuon group that make its step depend on the weights."""
    return {name for name, option in step_options().items() if option.metadata["reads"](o[name])}


def moves_in_place(W: Tensor, o: Mapping[str, Any]) -> bool:
    """Return whether a matrix W (m, n) can be moved by itself, at full speed, without stacking it with others.

    So it is where the move acts on single entries, and where it is a rotation by a kernel.
    """
    reading = reading_weights(o)
    return not reading or (reading == {"geodesic"} and kernels.elementwise_runs(W, W.size(o["sphere_dim"])))


def polar_dtype(o: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype of the orthogonalizer's products, and of O."""
    dtype: torch.dtype = getattr(torch, o["polar_dtype"])
    return dtype


def refined_dtype(o: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype of O after the steps that do not read the weights."""
    dtype = polar_dtype(o)
    return torch.promote_types(dtype, torch.float32) if o["match_step"] == "rms" else dtype


def may_round_input(o: Mapping[str, Any]) -> bool:
    """Return whether the look-ahead may be rounded at once to `polar_dtype`, which is the first thing `polar` does."""
    plain_input = o["tangent"] not in ("before", "both") and o["orthogonalizer"] != "svd"
    return plain_input and o["polar_dtype"] in ("float32", "bfloat16")
