"""Which code runs: Triton on a GPU from the size at which the kernels pay off, torch otherwise."""

import pytest
import torch

from ngpt import kernels
from ngpt.config import Orthogonalizer
from ngpt.kernels import describe, products, twins
from ngpt.polar import orthogonalize

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "triton_runs", lambda device: device.type == "cuda")


def test_torch_runs_on_a_cpu() -> None:
    assert products(4096, torch.bfloat16, CPU) is twins
    assert describe(torch.float32, CPU) == "torch on cpu, float32"


def test_sides_are_padded_where_tensor_cores_need_it() -> None:
    assert kernels.padding(243, torch.bfloat16, GPU) == 13 and kernels.padding(2047, torch.float16, GPU) == 1
    assert kernels.padding(768, torch.bfloat16, GPU) == kernels.padding(248, torch.bfloat16, GPU) == 0
    assert kernels.padding(243, torch.float32, GPU) == kernels.padding(243, torch.bfloat16, CPU) == 0


@pytest.mark.parametrize("shape", [(3, 20, 33), (21, 16), (2, 2, 9, 9), (1, 1)])
@pytest.mark.parametrize("method", ["newton-schulz", "polar-express", "newton-schulz-cubic"])
def test_padding_changes_nothing_but_the_order_of_sums(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], method: Orthogonalizer
) -> None:
    G = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    plain = orthogonalize(G, method=method, steps=5, dtype=torch.float64)
    monkeypatch.setattr(kernels, "padding", lambda side, dtype, device: -side % 16)
    padded = orthogonalize(G, method=method, steps=5, dtype=torch.float64)
    assert padded.shape == plain.shape
    torch.testing.assert_close(padded, plain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 2, 40, 24), (1, 16, 16)])
def test_one_at_a_time_changes_nothing_but_the_order_of_sums(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = []
    for rows in (10**9, 1):
        monkeypatch.setattr(kernels, "ALONE_FROM_ROWS", rows)
        assert kernels.one_by_one(16, CPU) == (rows == 1) and not kernels.one_by_one(16, torch.device("meta"))
        found.append(orthogonalize(G, method="polar-express", steps=5, dtype=dtype))
    assert found[0].shape == found[1].shape == shape
    torch.testing.assert_close(*found, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.usefixtures("on_a_gpu")
def test_triton_runs_where_it_pays_off() -> None:
    pytest.importorskip("triton")
    chosen = products(768, torch.bfloat16, GPU, count=33)
    assert chosen.__name__ == "ngpt.kernels.symmetric" and products(4096, torch.bfloat16, GPU) is chosen
    for rows, count in ((640, 100), (768, 24), (2048, 3), (3968, 1)):
        assert products(rows, torch.bfloat16, GPU, count=count) is twins
    assert products(4096, torch.float32, GPU) is twins, "float32 has no tensor cores without TF32"
    assert describe(torch.bfloat16, GPU) == "Triton from 768 rows and 512 tiles, torch below, bfloat16"


@pytest.mark.usefixtures("on_a_gpu")
def test_the_number_of_matrices_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few tiles as one matrix of 64 rows has make torch compute one, and three are left to the kernels."""
    symmetric = pytest.importorskip("ngpt.kernels.symmetric")
    monkeypatch.setattr(kernels, "triton_runs", lambda device: True)
    monkeypatch.setattr(kernels, "FROM_ROWS", 16)
    monkeypatch.setattr(kernels, "FROM_TILES", 3)
    called = []
    monkeypatch.setattr(symmetric, "xxt", lambda A: called.append(A.shape) or twins.xxt(A))
    for count in (1, 2, 3):
        G = torch.randn(count, 20, 33, generator=torch.Generator().manual_seed(3))
        orthogonalize(G, method="newton-schulz", steps=2, dtype=torch.bfloat16)
    assert called == [(3, 20, 33)] * 2


def test_kernels_and_torch_give_the_same_polar_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, wide and tall, as one batch."""
    symmetric = pytest.importorskip("ngpt.kernels.symmetric")
    G = torch.randn(2, 20, 33, generator=torch.Generator().manual_seed(3))
    for X in (G, G.mT):
        by_torch = orthogonalize(X, method="polar-express", steps=5)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "products", lambda *_, **__: symmetric)
            by_kernels = orthogonalize(X, method="polar-express", steps=5)
        torch.testing.assert_close(by_kernels, by_torch, rtol=1e-4, atol=1e-5)
