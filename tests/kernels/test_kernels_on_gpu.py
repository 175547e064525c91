"""Every kernel on a GPU against float64: `TRITON_INTERPRET=0 python -m pytest -m gpu -n 8`.

Compiling takes most of the time. So only one dtype meets every memory layout, and only one tiling every shape.
"""

from typing import Any, get_args

import pytest

pytest.importorskip("triton")
import torch
from torch import Tensor, nn

from ngpt import polar
from ngpt.config import Orthogonalizer
from ngpt.kernels import residual, symmetric, triton_runs, twins, vectors
from ngpt.kernels.momentum import momentum_step_
from ngpt.optim.muon import SimpleMuon

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(symmetric.INTERPRETED, reason="kernels run in Triton's interpreter: set TRITON_INTERPRET=0"),
]

GPU = torch.device("cuda", 0)
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ERRORS = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}
"""Error allowed, relative to the norm of the result: a few roundings of float32, or one of the storage"""
VECTORS = [(1, 1), (7, 5), (243, 81), (2048, 768), (2, 2, 5, 129), (64, 8192)]


@pytest.fixture(scope="module", autouse=True)
def a_gpu() -> None:
    assert torch.cuda.is_available() and triton_runs(GPU)
    torch.backends.cuda.matmul.allow_tf32 = False


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(GPU).manual_seed(seed), device=GPU).to(dtype)


def laid_out(A: Tensor) -> list[Tensor]:
    """Return the same values with different strides, or as they are in half precision."""
    if A.dtype != torch.float32:
        return [A.clone()]
    wide = torch.zeros(*A.shape[:-1], 2 * A.size(-1), dtype=A.dtype, device=A.device)
    wide[..., ::2] = A
    return [A.clone(), A.mT.contiguous().mT, wide[..., ::2]]


def error(got: Tensor, exact: Tensor) -> float:
    """Return |got - exact| / |exact|; infinity for a value that is not finite."""
    assert got.shape == exact.shape
    found = float((got.double() - exact).norm() / exact.norm().clamp_min(1e-30))
    return found if torch.isfinite(got).all() else float("inf")


# --- kernels ---------------------------------------------------------------------------------------------------------


SHAPES = [(1, 1), (5, 7), (3, 130, 70), (2, 2, 33, 200), (243, 243), (1100, 520)]
TILED = [(None, shape) for shape in SHAPES] + [(tiling, (1100, 520)) for tiling in symmetric.CANDIDATES]


@pytest.mark.parametrize(
    ("tiling", "shape"), TILED, ids=lambda value: value.label() if hasattr(value, "label") else str(value)
)
def test_symmetric_products(shape: tuple[int, ...], tiling: symmetric.Tiling | None) -> None:
    for dtype in FLOATS if tiling is None else [torch.bfloat16]:
        A = drawn(*shape, dtype=dtype)
        exact = A.double() @ A.double().mT
        S = exact / exact.norm(dim=(-2, -1), keepdim=True)
        S = ((S + S.mT) / 2).to(dtype)
        wanted = -4.775 * S.double() + 2.0315 * S.double() @ S.double()
        for a, s in zip(laid_out(A), laid_out(S), strict=True):
            product, polynomial = (
                symmetric.xxt(a, tiling=tiling),
                symmetric.ba_plus_cAA(s, -4.775, 2.0315, tiling=tiling),
            )
            assert error(product, exact) < ERRORS[dtype] and error(polynomial, wanted) < ERRORS[dtype]
            assert torch.equal(product, product.mT) and torch.equal(polynomial, polynomial.mT)


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("shape", VECTORS, ids=str)
def test_projection_and_rotation(shape: tuple[int, ...], dim: int) -> None:
    for dtype in FLOATS:
        W = drawn(*shape, dtype=dtype)
        exact = twins.project_(W.double(), dim=dim)
        for view in laid_out(W):
            assert error(vectors.project_(view, dim=dim), exact) < ERRORS[dtype]
        unit, O = exact.to(dtype), drawn(*shape, dtype=torch.bfloat16, seed=1)
        directions = [direction.bfloat16() for direction in laid_out(O.to(dtype))[::-1]]
        for fixed, lr in ((True, 0.05), (False, 0.02), (True, 3.0), (False, torch.full((), 0.3, device=GPU))):
            if unit.size(dim) == 1 and not fixed:
                continue  # no tangent: rounding of what is left
            scale = O.double().norm(dim=dim).mean().item() ** -1
            turned = twins.geodesic_move_(unit.double(), O.double(), float(lr), scale, fixed_angle=fixed, dim=dim)
            for view, direction in zip(laid_out(unit), directions, strict=True):
                moved = vectors.geodesic_move_(view, direction, lr, scale, fixed_angle=fixed, dim=dim)
                assert error(moved, turned) < 4 * ERRORS[dtype], (dtype, fixed, lr)


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e15])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (768, 2048), (50257, 768)], ids=str)
def test_momentum(shape: tuple[int, int], size: float) -> None:
    for dtype, nesterov in ((torch.bfloat16, True), (torch.float32, False), (torch.float32, True)):
        M, G, X = size * drawn(*shape), size * drawn(*shape, seed=1), torch.full(shape, torch.nan, device=GPU).to(dtype)
        mu = torch.full((), 0.95, device=GPU)
        m = 0.95 * M.double() + 0.05 * G.double()
        x = 0.05 * G.double() + 0.95 * m if nesterov else m
        norm = momentum_step_(M, G, mu, nesterov=nesterov, out=X)
        assert error(M, m) < 2e-6 and error(X, x) < ERRORS[dtype]
        assert float(norm) == pytest.approx(X.double().norm().item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (5, 7), (2, 33, 768), (32768, 768), (40, 8192)], ids=str)
def test_residual_step(shape: tuple[int, ...]) -> None:
    h, f = twins.unit(drawn(*shape)), drawn(*shape, seed=1)
    a, g = 0.3 + 0.1 * drawn(shape[-1], seed=2), drawn(*shape, seed=3)
    for dtype in FLOATS:
        inputs = [x.detach().requires_grad_() for x in (h, f.to(dtype), a)]
        exact = [x.detach().double().requires_grad_() for x in inputs]
        y, wanted = residual.residual_step(*inputs), twins.residual_step(*exact)
        assert error(y.detach(), wanted.detach()) < 2e-6
        gradients, exact_gradients = torch.autograd.grad(y, inputs, g), torch.autograd.grad(wanted, exact, g.double())
        for got, want, allowed in zip(gradients, exact_gradients, (1e-5, 10 * ERRORS[dtype], 1e-5), strict=True):
            assert error(got, want) < allowed


@pytest.mark.parametrize("method", [name for name in get_args(Orthogonalizer) if name != "svd"])
@pytest.mark.parametrize("shape", [(3, 96, 160), (243, 81), (2048, 2048)], ids=str)
def test_orthogonalizers(shape: tuple[int, ...], method: Any) -> None:
    G = drawn(*shape)
    exact = polar.orthogonalize(G.double(), method=method, steps=5, dtype=torch.float64)
    for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        for scale in (1.0, 1e-12):
            found = polar.orthogonalize(scale * G, method=method, steps=5, dtype=dtype)
            assert error(found, exact) < allowed, (dtype, scale)


# --- the optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {}, {"geodesic": "lr-norm"}, {"geodesic": "lr", "momentum_transport": "parallel"},
        {"normuon": "rows", "tangent": "both"}, {"match_step": "angle", "weight_decay": 0.1, "cautious_wd": True},
        {"orthogonalizer": "polar-express", "normuon": "short-axis"},
    ],
    ids=str,
)  # fmt: skip
def test_simple_muon_moves_as_on_a_cpu(options: dict[str, Any]) -> None:
    shapes, ends = [(96, 64), (64, 96), (64, 64)], []
    for device in (GPU, torch.device("cpu")):
        Ws = [twins.project_(drawn(*shape, seed=3).to(device), dim=-1) for shape in shapes]
        parameters = [nn.Parameter(W) for W in Ws]
        optimizer = SimpleMuon(
            [{"params": parameters, "sphere_dim": -1}],
            lr=0.02,
            polar_dtype=torch.float32,
            **{"weight_decay": 0.0, **options},
        )
        for step in range(5):
            for W in parameters:
                W.grad = drawn(*W.shape, seed=step).to(device)
            optimizer.step()
        ends.append([W.detach().cpu() for W in parameters])
    for ours, theirs in zip(*ends, strict=True):
        assert error(ours, theirs.double()) < 2e-4
