"""Matrix products in the form that is fast on this processor: activations times weights and, on a CPU, polar factors.

In float32 on a CPU with AVX512 that is not Intel's they are oneDNN's. PyTorch gives them to MKL, which uses AVX512 on
Intel's processors only and AVX2 on others. oneDNN, which is a part of PyTorch as well, uses what the processor has: on
one EPYC, products of the sizes of a small model take half the time. PyTorch has no public function for it. Compiled
code calls it through an operator of our own, because the compiler wants the second matrix of PyTorch's to be constant.

In bfloat16 on a GPU, a matrix whose row count is not a multiple of 8, such as GPT-2's 50,257, keeps cuBLAS from its
fast kernels in both passes. Such matrices are padded with rows of zeros.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ngpt.kernels import twins
from ngpt.machine import is_intel

FROM_ROWS = 96
"""Fewest rows of the matrices of a polar factor. A product takes oneDNN 9 microseconds before it begins, so that
smaller matrices are faster as a batch of MKL's (EPYC: 64 rows 0.4, 96 rows 1.05 to 1.2, 243 rows 2.1 times as fast)."""

WHOLE_ROWS = 64
"""Multiple to which the rows of a matrix are padded for a product in bfloat16 on a GPU"""

OPERATORS = torch.library.Library("ngpt", "DEF")
OPERATORS.define("times_transposed(Tensor A, Tensor B) -> Tensor")


def onednn_can() -> bool:
    """Return whether this processor has AVX512 and this PyTorch has oneDNN's float32 product."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_is_faster() -> bool:
    """Return whether oneDNN can and is faster: except on Intel's processors, where MKL is."""
    return onednn_can() and not is_intel()


BY_ONEDNN = onednn_is_faster()
"""Give float32 products on this CPU to oneDNN"""


def linear(x: Tensor, W: Tensor) -> Tensor:
    """Return x W', (..., N), for x (..., M) and W (N, M), as torch.nn.functional.linear; differentiable once."""
    kind = x.device.type
    if BY_ONEDNN and kind == "cpu" and x.ndim > 1 and x.numel():
        if x.dtype == W.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            y: Tensor = _Linear.apply(x, W)  # type: ignore[no-untyped-call]
            return y
    if kind == "cuda" and torch.is_autocast_enabled("cuda"):
        return linear_by_whole_rows(x, W)
    return F.linear(x, W)


def linear_by_whole_rows(x: Tensor, W: Tensor) -> Tensor:
    """Return x W', (..., N), as a part of the product with W (N, M) padded with zeros to a multiple of WHOLE_ROWS.

    With 50,257 rows, the three products of both passes take a quarter of the time on an H100.
    """
    missing = -len(W) % WHOLE_ROWS
    return F.linear(x, F.pad(W, (0, 0, 0, missing)))[..., : len(W)] if missing else F.linear(x, W)


def times_transposed(A: Tensor, B: Tensor) -> Tensor:
    """Return A B' for A (..., M) and B (N, M) of any strides, in float32 by oneDNN."""
    product: Tensor = (torch.ops.ngpt.times_transposed if torch.compiler.is_compiling() else _by_onednn)(A, B)
    return product


def _by_onednn(A: Tensor, B: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(A, B, None, "none", [], "")
    return product


def _shaped(A: Tensor, B: Tensor) -> Tensor:
    """Return a tensor with shape and strides of A B', for the compiler."""
    return A.new_empty(*A.shape[:-1], len(B))


OPERATORS.impl("times_transposed", _by_onednn, "CPU")
torch.library.register_fake("ngpt::times_transposed", _shaped, lib=OPERATORS)


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """Return dy' x, (N, M), for dy (T, N) and x (T, M). oneDNN copies its first factor: here the smaller one."""
    if dy.size(1) <= x.size(1):
        return times_transposed(dy.t(), x.t())
    return times_transposed(x.t(), dy.t()).t().contiguous()


class _Linear(torch.autograd.Function):
    """y = x W', with the gradients of both as products of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor) -> Tensor:
        ctx.save_for_backward(x, W)
        return times_transposed(x, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, W = ctx.saved_tensors
        dx, dW = None, None
        if ctx.needs_input_grad[0]:
            dx = times_transposed(dy, W.t())
        if ctx.needs_input_grad[1]:
            dW = weight_gradient(dy.flatten(0, -2), x.flatten(0, -2))
        return dx, dW


# --- products of the polar factor, with the signatures of `ngpt.kernels.twins` ---------------------------------------


def xxt(A: Tensor) -> Tensor:
    """Return A A', (M, M), for A (M, K)."""
    return times_transposed(A, A)


def ba_plus_cAA(A: Tensor, b: float, c: float, *, check: bool = True) -> Tensor:  # noqa: N802 (the field's name)
    """Return b A + c A A for symmetric A (M, M). Raises ValueError as the twin does."""
    twins.check_symmetric(A, values=check)
    return times_transposed(A, A).mul_(c).add_(A, alpha=b)


def aX_plus_BX(X: Tensor, B: Tensor, a: float) -> Tensor:  # noqa: N802 (the field's name)
    """Return a X + B X for X (M, K) and B (M, M)."""
    return times_transposed(B, X.t()).add_(X, alpha=a)
