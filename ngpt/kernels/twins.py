"""The torch twins of the kernels: the same signatures, on every device, and what the kernels are tested against."""

import torch
from torch import Tensor


def xxt(A: Tensor) -> Tensor:
    """A A', (..., M, K) -> (..., M, M), in A's dtype."""
    return A @ A.mT


def ba_plus_cAA(A: Tensor, b: float, c: float, *, check: bool = True) -> Tensor:  # noqa: N802 (the field's name)
    """Add b A and c A A for symmetric A (..., M, M), in A's dtype.

    Raises ValueError if A is not square or, with `check`, is not symmetric, for which it waits for the device.
    """
    check_symmetric(A, values=check)
    flat = A.reshape(-1, *A.shape[-2:])
    return torch.baddbmm(flat, flat, flat, beta=b, alpha=c).reshape(A.shape)


def check_symmetric(A: Tensor, *, values: bool) -> None:
    """Raise ValueError unless A (..., M, M) is square and, with `values`, equal to its transpose to the bit."""
    if A.ndim < 2 or A.size(-2) != A.size(-1):
        raise ValueError(f"a symmetric matrix is square, not {tuple(A.shape)}")
    if values and not torch.equal(A, A.mT):
        raise ValueError("b A + c A A is computed as b A + c A A', which needs a symmetric A")
