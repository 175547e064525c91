"""Queries, keys and values of all heads from one product: RoPE, the projection to the sphere and the scale.

In eager code on a CPU they are one function with its own gradient. In small models, dispatching these operations and
allocating the tensors between them is much of their cost.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ngpt import sphere
from ngpt.kernels.twins import unit, unit_gradient


def queries_keys_values(
    qkv: Tensor, cos_TK: Tensor, sin_TK: Tensor, s: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v (B, H, T, K) for qkv (B, T, 3 H K), whose rows hold q, k and v by head; differentiable once.

    With R for `rotated`, q and k become R q and R k or, with s (H K), s^2 N(R q) and N(R k). For a head <s q, s k> =
    <s^2 q, k>, so a scale of both is applied once, squared. cos_TK, sin_TK: tables (T, K) of `RotaryEmbedding`, in at
    least float32, as then are q and k. v keeps the dtype of qkv.
    """
    if in_one_function(qkv):
        q, k, v = _Heads.apply(qkv, cos_TK, sin_TK, s)  # type: ignore[no-untyped-call]
        return q, k, v
    x, v = by_head(qkv, cos_TK.size(-1)).split([2, 1])
    y = rotated(x, cos_TK, sin_TK)
    if s is None:
        q, k = y.unbind()
    else:
        q, k = unit(y).unbind()
        q = per_head(s**2, q) * q
    return q, k, v.squeeze(0)


def in_one_function(qkv: Tensor) -> bool:
    """Return whether the function with its own gradient runs: not in compiled code, which fuses by itself."""
    return qkv.device.type == "cpu" and not torch.compiler.is_compiling()


def rotated(x: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Return x cos_TK + (x with its halves exchanged) sin_TK: vectors of x (..., T, K) turned by their position."""
    return torch.addcmul(x * cos_TK, exchanged(x), sin_TK)


def exchanged(x: Tensor) -> Tensor:
    """Return x (..., K) with elements i and i + K//2 exchanged; an odd last element stays."""
    half = x.size(-1) // 2
    return torch.cat([x[..., half : 2 * half], x[..., :half], x[..., 2 * half :]], dim=-1)


def by_head(qkv: Tensor, width: int) -> Tensor:
    """View qkv (B, T, 3 H K), K = width, as (3, B, H, T, K)."""
    B, T, _ = qkv.shape
    return qkv.view(B, T, 3, -1, width).permute(2, 0, 3, 1, 4)


def per_head(s: Tensor, q: Tensor) -> Tensor:
    """View s (H K) as a factor (H, 1, K) of q (B, H, T, K), one row for each head."""
    return s.view(-1, 1, q.size(-1))


class _Heads(torch.autograd.Function):
    """y holds N(R q) and N(R k) or, without s, R q and R k: (2, B, H, T, K), contiguous, as parts of qkv are not."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos_TK: Tensor, sin_TK: Tensor, s: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, v = by_head(qkv, cos_TK.size(-1)).split([2, 1])
        y = qkv.new_empty(x.shape, dtype=torch.promote_types(qkv.dtype, cos_TK.dtype))
        torch.mul(x, cos_TK, out=y).addcmul_(exchanged(x), sin_TK)
        q, inverse = y[0], None
        if s is not None:
            inverse = sphere.inverse_length(y, dim=-1)
            q = per_head(s**2, q) * y.mul_(inverse)[0]
        ctx.save_for_backward(y, inverse, cos_TK, sin_TK, s)
        ctx.dtype = qkv.dtype
        return q, y[1], v.squeeze(0).contiguous()  # a copy, so that v does not keep qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        y, inverse, cos_TK, sin_TK, s = ctx.saved_tensors
        (_, B, H, T, K), ds = y.shape, None
        if s is None:
            dy = torch.stack([dq, dk])
        else:
            ds = (dq * y[0]).sum(dim=(0, 2)).flatten() * (2 * s)
            dy = unit_gradient(torch.stack([dq * per_head(s**2, dq), dk]), y, inverse)
        dqkv = y.new_empty(B, T, 3 * H * K)
        dx, into_v = by_head(dqkv, K).split([2, 1])
        torch.add(dy * cos_TK, exchanged(dy * sin_TK), out=dx)
        into_v.squeeze(0).copy_(dv)
        return dqkv.to(ctx.dtype), None, None, ds
