"""Causal attention in float32 on a CPU, where PyTorch's own multiplies queries with keys that they cannot see.

On Intel's processors PyTorch's own is faster all the same, and so it is in compiled code.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ngpt.machine import is_intel

BLOCK = 32
"""Queries that are multiplied at once with all keys up to the last of them: of 32, 64 and 128 the fastest at 64 to 256
positions (EPYC, one thread)"""

LONGEST = 512
"""Most positions: the probabilities are kept for the backward pass, about T / 2 numbers per query"""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k' + causal mask) v for q, k, v (B, H, T, K)."""
    if _blocks_run(q):
        y: Tensor = _CausalAttention.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
        return y
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def _blocks_run(q: Tensor) -> bool:
    if torch.compiler.is_compiling() or q.requires_grad is False:
        return False
    return q.device.type == "cpu" and q.dtype == torch.float32 and q.size(-2) <= LONGEST and blocks_are_faster()


@functools.cache
def blocks_are_faster() -> bool:
    """Return whether blocks are faster than PyTorch's attention: except on Intel's processors, as measured."""
    return not is_intel()


class _CausalAttention(torch.autograd.Function):
    """P are the probabilities of one block of queries, S their logits; differentiable once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        B, H, T, K = q.shape
        Q, k, v = (x.reshape(B * H, T, K) for x in (q * scale, k, v))
        y = q.new_empty(B, T, H, K).transpose(1, 2)
        kept = []
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            S = torch.bmm(Q[:, start:end], k[:, :end].mT)
            S[:, :, start:].add_(_mask(end - start))
            P = torch.softmax(S, dim=-1)
            y[:, :, start:end] = torch.bmm(P, v[:, :end]).view(B, H, -1, K)
            kept.append(P)
        ctx.save_for_backward(Q, k, v, *kept)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        Q, k, v, *kept = ctx.saved_tensors
        T, shape = Q.size(1), dy.shape
        dy = dy.reshape(Q.shape)
        dQ, dk, dv = (torch.empty_like(x) for x in (Q, k, v))
        for number, P in reversed(list(enumerate(kept))):  # the last block sees all keys, and sets all of dk and dv
            start = number * BLOCK
            end = start + P.size(1)
            dP = torch.bmm(dy[:, start:end], v[:, :end].mT)
            dS = torch._softmax_backward_data(dP, P, -1, torch.float32)
            if end == T:
                torch.bmm(P.mT, dy[:, start:end], out=dv)
                torch.bmm(dS.mT, Q[:, start:end], out=dk)
            else:
                dv[:, :end] += torch.bmm(P.mT, dy[:, start:end])
                dk[:, :end] += torch.bmm(dS.mT, Q[:, start:end])
            dQ[:, start:end] = torch.bmm(dS, k[:, :end])
        return dQ.mul_(ctx.scale).view(shape), dk.view(shape), dv.view(shape), None


@functools.cache
def _mask(rows: int) -> Tensor:
    """Return 0 where a query sees a key of its own block and -inf elsewhere, (rows, rows)."""
    return torch.full((rows, rows), -torch.inf).triu(1)
