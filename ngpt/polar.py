"""Orthogonalizers: the polar factor U V' of G = U S V' for stacks of matrices (..., m, n), exact or approximate.

Each approximation applies odd polynomials p(s) = a s + b s^3 + c s^5 to the singular values with matrix products only:
A = X X', X <- a X + (b A + c A A) X. Each table of coefficients states its source.

Five steps do not orthogonalize exactly. They map singular values in [0.01, 1] after normalization to the ranges below
(reproduced in tests/test_polar.py):

    newton-schulz  0.68 - 1.14      polar-express        0.87 - 1.13
    you            0.97 - 1.04      newton-schulz-cubic  0.07 - 1.00
                                    newton-schulz-literal  0.06 - 1.00, the same from a norm 1.1 times too large

The cubics so shorten the step: on Gaussian matrices 1.5 times at 64 x 64, 3.8 times at 768 x 768.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ngpt import kernels
from ngpt.config import Orthogonalizer

Row = tuple[float, float, float]

CUBIC: Row = (1.5, -0.5, 0.0)
"""X (3I - X'X) / 2, the classical Newton-Schulz step; converges from below. N. Higham, Functions of Matrices, ch. 8.

The earlier attempt (dnhkng/nGPT-muon) ran five steps of it, which is "newton-schulz-literal"; orthogonalizing a
gradient takes 10 to 20."""

QUINTIC: Row = (3.4445, -4.7750, 2.0315)
"""Keller Jordan, Muon (kellerjordan.github.io/posts/muon, 2024): the largest slope at 0 that still ends near 1."""

YOU: tuple[Row, ...] = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Y. Jiacheng's five-step schedule (2024), as used by NVIDIA Emerging-Optimizers and Dion; exactly five steps."""

POLAR_EXPRESS: tuple[Row, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""N. Amsel et al., The Polar Express (arXiv 2505.16932), Algorithm 1: the minimax polynomials for s in [1e-3, 1].

The last row repeats for further steps. All rows but the last are used with `POLAR_EXPRESS_SAFETY`."""

POLAR_EXPRESS_SAFETY = 1.01
"""Same source: p(s / 1.01) instead of p(s) and a norm 1.01 times too large keep rounded values inside [0, 1]."""

SAFETY = {"polar-express": POLAR_EXPRESS_SAFETY, "newton-schulz-literal": 1.1}
"""Factors on the Frobenius norm before a matrix is divided by it; the earlier attempt's 1.1 stays in its
result, which is shorter than the cubic's"""


def coefficients(method: Orthogonalizer, steps: int) -> tuple[Row, ...]:
    """Return the coefficient rows of `method` for `steps` iterations; raise ValueError if it has no such schedule."""
    if steps < 1:
        raise ValueError(f"an orthogonalizer needs at least one step, not {steps}")
    match method:
        case "newton-schulz-cubic" | "newton-schulz-literal":
            return (CUBIC,) * steps
        case "newton-schulz":
            return (QUINTIC,) * steps
        case "you":
            if steps != len(YOU):
                raise ValueError(f"'you' is a schedule of exactly {len(YOU)} steps, not {steps}")
            return YOU
        case "polar-express":
            r = POLAR_EXPRESS_SAFETY
            rows = tuple((a / r, b / r**3, c / r**5) for a, b, c in POLAR_EXPRESS[:-1])
            return (rows + POLAR_EXPRESS[-1:] * max(1, steps - len(rows)))[:steps]
    raise ValueError(f"{method!r} has no polynomial")


def orthogonalize(
    G: Tensor,
    *,
    method: Orthogonalizer,
    steps: int,
    dtype: torch.dtype = torch.float32,
    norm: Tensor | None = None,
    quintic: Row = QUINTIC,
    eps: float = 0.0,
) -> Tensor:
    """Return the approximate polar factor of each matrix of G (..., m, n), in `dtype`; G is never written to.

    norm: |G|_F of each matrix, (..., 1, 1), if the caller already has it. quintic: coefficients of "newton-schulz".
    eps: if positive, divide by no norm below it, as torch.optim.Muon does with its eps; a smaller G gives a smaller
    result.

    The result does not depend on the scale of G, down to entries of 1e-30: a power of two brings the largest entry
    near 1 before anything is squared. That scaling is exact, so in bfloat16 with "newton-schulz" the result equals
    that of `torch.optim.Muon` bit for bit wherever the eps = 1e-7 there has no effect. Zero matrices give zero;
    non-finite entries give non-finite results, as they should.
    """
    if method == "svd":
        return exact_polar(G).to(dtype)
    safety = SAFETY.get(method, 1.0)
    if eps:
        X = G.to(dtype)
        length = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True) if norm is None else norm.to(dtype)
        X = X / (length * safety if safety != 1.0 else length).clamp_min(eps)
    elif norm is None or dtype == torch.float16:  # a given norm need not fit into float16
        X = _normalized(G, dtype, safety)
    else:
        X = G.to(dtype) / torch.where(norm > 0, norm * safety, 1.0).to(dtype)
    rows = coefficients(method, steps)
    return polynomial_polar(X, (quintic,) * steps if method == "newton-schulz" else rows)


def _normalized(G: Tensor, dtype: torch.dtype, safety: float) -> Tensor:
    """Return G / (safety |G|_F) in `dtype`, with spectral norm at most 1."""
    X = G.to(dtype)
    scale = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    if not _squares_fit(scale):
        largest = torch.linalg.vector_norm(G, ord=math.inf, dim=(-2, -1), keepdim=True).float()
        exponent = torch.frexp(largest).exponent.clamp(-126, 126)
        X = (G * torch.ldexp(torch.ones_like(largest), -exponent)).to(dtype)
        scale = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    if safety != 1.0:
        scale = scale * safety
    return torch.div(X, torch.threshold(scale, 0.0, 1.0), out=None if X is G else X)


def _squares_fit(norm: Tensor) -> bool:
    """Return whether matrices of these norms can be squared unscaled, so that a power of two would change no bit.

    Squares that are subnormal, and so rounded more coarsely, are then below the last bit of their sum. Always False on
    a GPU, where reading a value would wait for the device.
    """
    if norm.device.type != "cpu" or norm.dtype == torch.float16:
        return False
    low, high = (value.item() for value in norm.aminmax()) if norm.numel() else (1.0, 1.0)
    return 1e-12 <= low and high <= 1e12


def polynomial_polar(X: Tensor, rows: Sequence[Row]) -> Tensor:
    """Apply p(s) = a s + b s^3 + c s^5, row by row, to the singular values of X (..., m, n); not in place.

    Works on the Gram matrix of the shorter side: 2 min(m, n)^2 (2 max(m, n) + min(m, n)) flops per row, and
    4 min(m, n)^2 max(m, n) where c is zero.
    """
    if not X.numel():  # a rank may own no matrix of a batch
        return X
    tall = X.size(-2) > X.size(-1)
    X = X.mT if tall else X
    batch, (m, n) = X.shape[:-2], X.shape[-2:]
    X = X.reshape(-1, m, n)
    more = [kernels.padding(side, X.dtype, X.device) for side in (m, n)]
    if any(more):  # zero rows and columns stay zero and change nothing else
        X = F.pad(X, (0, more[1], 0, more[0]))
    if len(X) > 1 and (kernels.one_by_one(m, X.device) or kernels.products(m, X.dtype, X.device) is kernels.dense):
        X = torch.stack([_iterated(matrix, rows) for matrix in X])
    else:
        X = _iterated(X.squeeze(0), rows).reshape(X.shape)
    X = X[:, :m, :n].reshape(*batch, m, n)
    return X.mT if tall else X


def _iterated(X: Tensor, rows: Sequence[Row]) -> Tensor:
    """Apply the rows to one wide matrix (m, n) or to a stack of them, (N, m, n)."""
    run = kernels.products(X.size(-2), X.dtype, X.device, count=len(X) if X.ndim == 3 else 1)
    for a, b, c in rows:
        A = run.xxt(X)
        B = run.ba_plus_cAA(A, b, c, check=False) if c else b * A
        X = run.aX_plus_BX(X, B, a)
    return X


def exact_polar(G: Tensor) -> Tensor:
    """Return U V' in float64 by singular value decomposition in float64: slow, the reference for the approximations.

    Directions that are null to float32 rounding (to float64 rounding if G is float64) give zero instead of noise. A
    matrix with an entry that is not finite gives NaN.
    """
    finite = G.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    G = torch.where(finite, G, 0.0)
    eps = torch.finfo(torch.float64 if G.dtype == torch.float64 else torch.float32).eps
    U, S, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    rank = S > S.amax(dim=-1, keepdim=True) * max(G.shape[-2:]) * eps
    return torch.where(finite, (U * rank.unsqueeze(-2)) @ Vh, math.nan)


def orthogonality_error(O: Tensor) -> Tensor:
    """Return |O O' - I|_F / sqrt(k), k = min(m, n) the shorter side, per matrix of O (..., m, n); 0 if exact."""
    O = O.float()
    gram = O @ O.mT if O.size(-2) <= O.size(-1) else O.mT @ O
    k = gram.size(-1)
    return torch.linalg.matrix_norm(gram - torch.eye(k, device=O.device)) / k**0.5
