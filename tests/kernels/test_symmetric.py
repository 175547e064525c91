"""The symmetric products in Triton's interpreter against float64: odd sizes, strides, batches, dtypes, errors."""

import itertools
from collections.abc import Iterator

import pytest

pytest.importorskip("triton")
import torch
from torch import Tensor

from ngpt.kernels import symmetric, twins
from ngpt.kernels.symmetric import Tiling

TINY = Tiling(rows=16, depth=16, warps=4, stages=2)
EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def symmetric_matrix(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return a bitwise symmetric matrix of spectral norm about 1."""
    X = drawn(*shape, shape[-1]).double() / shape[-1] ** 0.5
    return ((X + X.mT) / 2).to(dtype)


def bound(A: Tensor, terms: int) -> float:
    """Return the rounding of a sum of `terms` products in float32 plus that of the result in A's dtype."""
    largest = A.double().square().sum(-1).max().item()
    return largest * (terms * 2.0**-23 + EPS[A.dtype])


def viewed(A: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the same values with different strides."""
    yield "contiguous", A
    yield "transposed in memory", A.mT.contiguous().mT
    wide = torch.zeros(*A.shape[:-1], 2 * A.size(-1), dtype=A.dtype)
    wide[..., ::2] = A
    yield "every second column", wide[..., ::2]


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 7), (16, 16), (17, 33), (40, 15), (3, 33, 20), (2, 2, 19, 40), (33, 1), (2, 0, 4), (0, 4, 4)]
)
def test_xxt(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    A = drawn(*shape, dtype=dtype)
    exact = A.double() @ A.double().mT
    for name, view in viewed(A):
        C = symmetric.xxt(view, tiling=TINY)
        assert C.dtype == dtype and C.shape == exact.shape
        if C.numel():
            assert (C.double() - exact).abs().max().item() <= bound(A, shape[-1]), name
        assert torch.equal(C, C.mT), "symmetric to the bit"


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (33,), (3, 20), (2, 2, 35)])
def test_ba_plus_caa(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    A = symmetric_matrix(*shape, dtype=dtype)
    for b, c in ((-4.775, 2.0315), (0.0, 1.0), (1.0, 0.0)):
        exact = b * A.double() + c * (A.double() @ A.double())
        for name, view in viewed(A):
            C = symmetric.ba_plus_cAA(view, b, c, tiling=TINY)
            assert (C.double() - exact).abs().max().item() <= 8 * bound(A, shape[-1]) + abs(b) * EPS[dtype], name
            assert torch.equal(C, C.mT)


def test_the_twins_have_the_same_signature_and_values() -> None:
    A = symmetric_matrix(2, 21, dtype=torch.float32)
    torch.testing.assert_close(twins.xxt(A), symmetric.xxt(A, tiling=TINY))
    torch.testing.assert_close(twins.ba_plus_cAA(A, 0.5, -2.0), symmetric.ba_plus_cAA(A, 0.5, -2.0, tiling=TINY))


@pytest.mark.parametrize("place", [twins, symmetric], ids=lambda place: place.__name__)
def test_an_asymmetric_matrix_is_refused(place: object) -> None:
    A = symmetric_matrix(20, dtype=torch.float32)
    A[3, 17] += 1e-6
    with pytest.raises(ValueError, match="needs a symmetric A"):
        place.ba_plus_cAA(A, 1.0, 1.0)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="square"):
        place.ba_plus_cAA(A[:-1], 1.0, 1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="is none of"):
        symmetric.xxt(torch.ones(4, 4, dtype=dtype))


def test_the_grid_is_the_triangle(monkeypatch: pytest.MonkeyPatch) -> None:
    """T (T + 1) / 2 programs per matrix: every tile on and below the diagonal once."""
    launched: list[tuple[int, ...]] = []
    kernel = symmetric.symmetric_product

    class Watched:
        def __getitem__(self, grid: tuple[int, ...]) -> object:
            launched.append(grid)
            return kernel[grid]

    monkeypatch.setattr(symmetric, "symmetric_product", Watched())
    symmetric.xxt(drawn(3, 70, 4), tiling=TINY)
    assert launched == [(3 * 5 * 6 // 2,)]


def test_the_tile_of_a_program_is_right_for_every_program() -> None:
    """The kernel's float32 arithmetic, for as many tiles as a matrix with 90,000 rows has."""
    tile = torch.arange(250_000)
    i = ((torch.sqrt(8.0 * tile.float() + 1.0) - 1.0) * 0.5).int().long()
    i = torch.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = torch.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    j = tile - i * (i + 1) // 2
    pairs = list(itertools.islice(((i, j) for i in itertools.count() for j in range(i + 1)), len(tile)))
    assert torch.equal(torch.stack([i, j], 1), torch.tensor(pairs))


def test_large_matrices_have_large_tiles_and_float32_has_not() -> None:
    tilings = {
        (768, torch.bfloat16, False): symmetric.LARGE, (768, torch.bfloat16, True): symmetric.DEEP,
        (767, torch.bfloat16, True): symmetric.SMALL, (4096, torch.float32, True): symmetric.SMALL,
    }  # fmt: skip
    for (rows, dtype, deep), tiling in tilings.items():
        assert symmetric.best_tiling(rows, dtype, deep=deep) == tiling
    assert len(set(symmetric.CANDIDATES)) == len(symmetric.CANDIDATES) and set(tilings.values()) <= set(
        symmetric.CANDIDATES
    )


def test_no_input_is_written_to() -> None:
    A = symmetric_matrix(2, 20, dtype=torch.float32)
    kept = A.clone()
    symmetric.xxt(A, tiling=TINY)
    symmetric.ba_plus_cAA(A, 1.0, 2.0, tiling=TINY)
    assert torch.equal(A, kept)
