"""Orthogonalizers against float64 oracles, and the invariances that step sizes rely on."""

import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from oracles import optimizers as oracle
from torch import Tensor
from torch.optim import _muon

from ngpt import polar
from ngpt.config import Orthogonalizer

SHAPES = [(16, 40), (40, 16), (24, 24), (3, 12, 20), (2, 3, 20, 12)]
POLYNOMIAL: list[Orthogonalizer] = [
    "newton-schulz-cubic", "newton-schulz-literal", "newton-schulz", "you", "polar-express"
]  # fmt: skip
EVERY: list[Orthogonalizer] = [*POLYNOMIAL, "svd"]
WORKING = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EPS64, EPS32 = (torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32))

GROWTH = 256
"""Allowed error of an entry in units of rounding. Five steps amplify the rounding along a small singular value by up to
the product of their slopes at 0 (485 for Newton-Schulz, 976 for Polar Express), reached here only in part."""

Row = tuple[float, float, float]


def reference_rows(method: str, steps: int) -> tuple[list[Row], float]:
    """The published coefficients, copied independently, and the safety factor on the norm."""
    if method == "newton-schulz-cubic":
        return [(1.5, -0.5, 0.0)] * steps, 1.0
    if method == "newton-schulz-literal":  # dnhkng/nGPT-muon at 5a9ab2e
        return [(1.5, -0.5, 0.0)] * steps, 1.1
    if method == "newton-schulz":
        return [(_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)] * steps, 1.0
    if method == "you":
        return [
            (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
        ], 1.0  # fmt: skip
    published = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    ]
    rows = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in published]
    return (rows + [(1.875, -1.25, 0.375)] * steps)[:steps], 1.01


def matrices(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return Gaussian matrices."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def spectra(Q: Tensor) -> np.ndarray:
    """Return singular values in float64."""
    return np.linalg.svd(Q.double().numpy(), compute_uv=False)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("method", "steps"),
    [(method, steps) for method in POLYNOMIAL for steps in (1, 5, 10) if method != "you" or steps == 5],
)
def test_agrees_with_the_oracle(method: Orthogonalizer, steps: int, shape: tuple[int, ...]) -> None:
    G = matrices(shape)
    rows, safety = reference_rows(method, steps)
    want = oracle.polynomial_polar(G.numpy(), rows, safety)
    got = polar.orthogonalize(G, method=method, steps=steps, dtype=torch.float64)
    # later steps amplify each rounding of X, at most by their joint slope at 0
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=GROWTH * EPS64)
    single = polar.orthogonalize(G.float(), method=method, steps=steps)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.double().numpy(), want, rtol=0, atol=GROWTH * EPS32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_agrees_with_the_oracle(shape: tuple[int, ...]) -> None:
    G = matrices(shape)
    want = oracle.polar_exact(G.numpy())
    got = polar.orthogonalize(G, method="svd", steps=1, dtype=torch.float64)
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=32 * EPS64)
    single = polar.orthogonalize(G.float(), method="svd", steps=1)
    np.testing.assert_allclose(single, oracle.polar_exact(G.float().numpy()), rtol=0, atol=EPS32 / 2)


@pytest.mark.parametrize("size", [16, 128])
def test_svd_of_a_bfloat16_matrix_of_full_rank_has_full_rank(size: int) -> None:
    G = matrices((size, size), torch.bfloat16)
    want = oracle.polar_exact(G.double().numpy())
    got = polar.orthogonalize(G, method="svd", steps=1, dtype=torch.float32)
    # the result may pass through bfloat16: entries below 1, each rounded once
    np.testing.assert_allclose(got.numpy(), want, rtol=2.0**-8, atol=EPS32)


@pytest.mark.parametrize("method", POLYNOMIAL)
def test_the_bands_of_the_docstring(method: Orthogonalizer) -> None:
    band = re.search(rf"(?<![\w-]){method} +(\d\.\d\d) - (\d\.\d\d)", polar.__doc__ or "")
    assert band is not None
    rows, safety = reference_rows(method, 5)
    s = torch.logspace(-2, 0, 20_001, dtype=torch.float64) / safety
    out = polar.polynomial_polar(s.reshape(-1, 1, 1), rows)
    low, high = math.floor(100 * out.min().item()) / 100, math.ceil(100 * out.max().item()) / 100
    assert (f"{low:.2f}", f"{high:.2f}") == band.groups()


@pytest.mark.parametrize(("method", "steps"), [("polar-express", 12), ("newton-schulz-cubic", 30)])
def test_convergent_schedules_reach_the_polar_factor(method: Orthogonalizer, steps: int) -> None:
    G = matrices((16, 40))
    got = polar.orthogonalize(G, method=method, steps=steps, dtype=torch.float64)
    np.testing.assert_allclose(got.numpy(), oracle.polar_exact(G.numpy()), rtol=0, atol=GROWTH * EPS64)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (1, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bfloat16_newton_schulz_is_torchs_to_the_bit(dtype: torch.dtype, shape: tuple[int, int], scale: float) -> None:
    for seed in range(5):
        G = (matrices(shape, seed=seed) * scale).to(dtype)
        torchs = _muon._zeropower_via_newtonschulz(G.clone(), reference_rows("newton-schulz", 1)[0][0], 5, 1e-7)
        assert torch.equal(polar.orthogonalize(G, method="newton-schulz", steps=5, dtype=torch.bfloat16), torchs)


# --- invariances -----------------------------------------------------------------------------------------------------


POWERS = torch.arange(-100, 101)  # 2^-100 = 8e-31
SPREADS = [0, 6]
"""Decades over which the entries of a matrix are spread; with more, the smallest would be subnormal at 2^-100"""


def spread(shape: tuple[int, ...], decades: int) -> torch.Tensor:
    """Return matrices in float32 whose entries are spread over some decades, below 1."""
    exponents = torch.rand(shape, generator=torch.Generator().manual_seed(3)) * -decades
    return (matrices(shape) * 10.0**exponents).float()


@pytest.mark.parametrize("decades", SPREADS)
@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("method", EVERY)
def test_no_power_of_two_changes_a_bit(method: Orthogonalizer, dtype: torch.dtype, decades: int) -> None:
    """Alone, in a stack of one scale, and in a stack of all scales, whichever path the stack takes."""
    G = spread((10, 16), decades)
    plain = polar.orthogonalize(G, method=method, steps=5, dtype=dtype)
    assert plain.dtype == dtype and plain.abs().max() > 0.1
    scaled = [G * 2.0**power for power in POWERS.tolist()]
    for power, matrix in zip(POWERS.tolist(), scaled, strict=True):
        assert torch.equal(polar.orthogonalize(matrix, method=method, steps=5, dtype=dtype), plain), power
    together = polar.orthogonalize(torch.stack(scaled), method=method, steps=5, dtype=dtype)
    same = polar.orthogonalize(G.expand(len(scaled), -1, -1), method=method, steps=5, dtype=dtype)
    assert torch.equal(together, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", [method for method in EVERY if method != "svd"])
def test_no_power_of_two_changes_a_bit_where_the_norm_is_given(method: Orthogonalizer, dtype: torch.dtype) -> None:
    G = spread((10, 16), 0)
    stack = (G * 2.0 ** POWERS.reshape(-1, 1, 1)).to(torch.float32 if dtype == torch.float16 else dtype)
    norms = torch.linalg.matrix_norm(stack.double(), keepdim=True).float()
    found = polar.orthogonalize(stack, method=method, steps=5, dtype=dtype, norm=norms)
    assert torch.equal(found, found[:1].expand_as(found)) and found.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", EVERY)
def test_any_factor_changes_no_more_than_its_rounding(method: Orthogonalizer, dtype: torch.dtype) -> None:
    G = matrices((3, 16, 24), torch.float32)
    plain = polar.orthogonalize(G, method=method, steps=5, dtype=dtype)
    bound = 16 * torch.finfo(dtype).eps if dtype != torch.float32 else GROWTH * EPS32
    for factor in torch.logspace(-30, 30, 241, dtype=torch.float64).tolist():
        scaled = polar.orthogonalize(G * factor, method=method, steps=5, dtype=dtype)
        torch.testing.assert_close(scaled, plain, rtol=0, atol=bound, msg=f"factor {factor:.3g}")


@pytest.mark.parametrize("method", EVERY)
def test_matrices_of_a_stack_do_not_see_each_other(method: Orthogonalizer) -> None:
    G = matrices((2, 3, 12, 20)) * torch.logspace(-25, 25, 6, dtype=torch.float64).reshape(2, 3, 1, 1)
    G[1, 1] = 0.0
    stacked = polar.orthogonalize(G, method=method, steps=5, dtype=torch.float64)
    for i, j in np.ndindex(2, 3):
        alone = polar.orthogonalize(G[i, j], method=method, steps=5, dtype=torch.float64)
        torch.testing.assert_close(stacked[i, j], alone, rtol=0, atol=GROWTH * EPS64)
        assert alone.any() == ((i, j) != (1, 1))


@pytest.mark.parametrize("method", EVERY)
def test_a_tall_matrix_is_its_wide_transpose(method: Orthogonalizer) -> None:
    G = matrices((3, 12, 20))
    wide = polar.orthogonalize(G, method=method, steps=5, dtype=torch.float64)
    tall = polar.orthogonalize(G.mT, method=method, steps=5, dtype=torch.float64)
    torch.testing.assert_close(tall, wide.mT, rtol=0, atol=GROWTH * EPS64)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (3, 12, 20)], ids=str)
@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("method", EVERY)
def test_the_input_is_never_written_to(method: Orthogonalizer, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    G = matrices(shape, dtype)
    G /= G.abs().amax()  # the largest entry near 1: a normalization could take a shortcut and do nothing
    before, version = G.clone(), G._version
    Q = polar.orthogonalize(G, method=method, steps=5, dtype=dtype)
    assert torch.equal(G, before) and G._version == version
    Q.zero_()
    assert torch.equal(G, before), "the result shares the input's memory"


@pytest.mark.parametrize("method", EVERY)
def test_zeros(method: Orthogonalizer) -> None:
    options: Any = {"method": method, "steps": 5}
    for dtype in WORKING:
        zero = polar.orthogonalize(torch.zeros(2, 12, 20), **options, dtype=dtype)
        assert torch.equal(zero, torch.zeros(2, 12, 20, dtype=dtype))
    G = matrices((12, 20), torch.float32)
    G[3], G[:, 5] = 0.0, 0.0
    Q = polar.orthogonalize(G, **options)
    noise = 8 * EPS64 if method == "svd" else 0.0  # the decomposition does not treat zeros exactly
    assert torch.isfinite(Q).all() and Q[3].abs().max() <= noise and Q[:, 5].abs().max() <= noise
    kept = [row for row in range(12) if row != 3]
    dense = polar.orthogonalize(G[kept], **options)
    torch.testing.assert_close(Q[kept], dense, rtol=0, atol=GROWTH * EPS32)


def test_svd_of_a_matrix_without_full_rank_adds_no_noise() -> None:
    G = (matrices((12, 4)) @ matrices((4, 20), seed=1)).float()
    values = spectra(polar.orthogonalize(G, method="svd", steps=1))
    np.testing.assert_allclose(values, [1.0] * 4 + [0.0] * 8, atol=12 * EPS32)  # a 12 x 20 factor, each entry rounded


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", EVERY)
def test_a_bad_entry_is_seen(method: Orthogonalizer, bad: float) -> None:
    G = matrices((12, 20), torch.float32)
    G[2, 3] = bad
    assert not torch.isfinite(polar.orthogonalize(G, method=method, steps=5)).all()


# --- the factor itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (3, 12, 20)], ids=str)
def test_a_wide_factor_has_unit_rows_and_a_tall_one_unit_columns(shape: tuple[int, ...]) -> None:
    Q = polar.orthogonalize(matrices(shape), method="svd", steps=1, dtype=torch.float64)
    m, n = shape[-2:]
    rows, columns = Q.norm(dim=-1), Q.norm(dim=-2)
    unit, other = (rows, columns) if m <= n else (columns, rows)
    torch.testing.assert_close(unit, torch.ones_like(unit), rtol=0, atol=32 * EPS64)
    if m != n:
        assert (other < 0.95).all()


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (3, 12, 20)], ids=str)
def test_orthogonality_error(shape: tuple[int, ...]) -> None:
    Q = polar.orthogonalize(matrices(shape), method="svd", steps=1, dtype=torch.float64)
    assert polar.orthogonality_error(Q).shape == shape[:-2]
    assert (polar.orthogonality_error(Q) < 8 * EPS32).all()  # it is measured in float32
    torch.testing.assert_close(polar.orthogonality_error(2 * Q), torch.full(shape[:-2], 3.0))  # |4I - I|_F / sqrt(k)
    rank_one = torch.zeros(shape)
    rank_one[..., 0, 0] = 1.0
    k = min(shape[-2:])
    torch.testing.assert_close(polar.orthogonality_error(rank_one), torch.full(shape[:-2], math.sqrt((k - 1) / k)))


@pytest.mark.parametrize(
    ("method", "steps"), [*((method, 0) for method in POLYNOMIAL), ("you", 4), ("you", 6), ("svd", 5), ("qr", 5)]
)
def test_a_schedule_that_does_not_exist_is_refused(method: Any, steps: int) -> None:
    with pytest.raises(ValueError):
        polar.coefficients(method, steps)


@pytest.mark.parametrize("method", POLYNOMIAL)
def test_a_schedule_has_as_many_rows_as_steps(method: Orthogonalizer) -> None:
    for steps in (5,) if method == "you" else (1, 5, 7, 8, 12):
        np.testing.assert_allclose(polar.coefficients(method, steps), reference_rows(method, steps)[0], rtol=4 * EPS64)


@pytest.mark.parametrize("method", get_args(Orthogonalizer))
@pytest.mark.parametrize("shape", [(0, 96, 128), (0, 128, 96), (2, 0, 8, 4)])
def test_no_matrix_has_no_polar_factor(method: Orthogonalizer, shape: tuple[int, ...]) -> None:
    """As on a rank that owns no matrix of a batch, also where matrices are multiplied one by one."""
    assert polar.orthogonalize(torch.empty(shape), method=method, steps=5).shape == shape
