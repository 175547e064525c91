"""Products by oneDNN: against float64, with gradients, for all strides; and where they run."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import drawn, laid_out
from torch import Tensor

from ngpt import kernels, machine
from ngpt.kernels import dense, twins
from ngpt.polar import orthogonalize

CPU = torch.device("cpu")
ONEDNN = pytest.mark.skipif(not dense.onednn_can(), reason="needs a processor with AVX512")


def close(found: Tensor, exact: Tensor) -> None:
    """Check to a few roundings of a sum of products with entries near 1."""
    largest = max([1.0, *exact.abs().flatten().tolist()])
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=4e-6 * largest)


@pytest.mark.parametrize("shape", [(7,), (1, 1), (5, 64), (2, 3, 48), (0, 16), (2, 16, 33)])
@pytest.mark.parametrize("rows", [1, 17, 96])
@pytest.mark.parametrize("by", ["PyTorch", pytest.param("oneDNN", marks=ONEDNN)])
def test_linear_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, by: str, shape: tuple[int, ...], rows: int
) -> None:
    monkeypatch.setattr(dense, "BY_ONEDNN", by == "oneDNN")
    x, W, dy = drawn(*shape, seed=1), drawn(rows, shape[-1], seed=2), drawn(*shape[:-1], rows, seed=3)
    leaves = [tensor.requires_grad_() for tensor in (x, W)]
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, W)]
    y, y_exact = dense.linear(*leaves), F.linear(*exact)
    assert y.shape == dy.shape and y.dtype == torch.float32
    close(y, y_exact)
    y.backward(dy)
    y_exact.backward(dy.double())
    for leaf, reference in zip(leaves, exact, strict=True):
        assert leaf.grad is not None and reference.grad is not None
        close(leaf.grad, reference.grad)
        assert leaf.grad.is_contiguous()


@pytest.mark.parametrize("rows", [1, 64, 65, 257])
def test_whole_rows_change_no_product(rows: int) -> None:
    leaves = [drawn(*shape, seed=number).requires_grad_() for number, shape in enumerate([(2, 5, 16), (rows, 16)])]
    dy = drawn(2, 5, rows, seed=2)
    y = dense.linear_by_whole_rows(*leaves)
    assert y.shape == dy.shape and len(y.flatten(0, 1)) == 10
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    reference = F.linear(*exact)
    close(y, reference)
    y.backward(dy)
    reference.backward(dy.double())
    for leaf, other in zip(leaves, exact, strict=True):
        assert leaf.grad is not None and other.grad is not None and leaf.grad.shape == other.grad.shape
        close(leaf.grad, other.grad)


@pytest.mark.parametrize("autocast", [False, True])
def test_rows_are_filled_up_in_bfloat16_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    filled = []
    monkeypatch.setattr(dense, "linear_by_whole_rows", lambda x, W: filled.append(W) or F.linear(x, W))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: autocast and kind == "cuda")
    for device in ("cpu", "meta"):
        dense.linear(torch.ones(2, 8, device=device), torch.ones(65, 8, device=device))
    assert not filled
    monkeypatch.setattr(F, "linear", lambda x, W: None)
    dense.linear(_OnGpu(), _OnGpu())  # type: ignore[arg-type]
    assert len(filled) == autocast


class _OnGpu:
    device, dtype, ndim = torch.device("cuda"), torch.bfloat16, 2


@pytest.mark.parametrize(("vendor", "runs"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, True)])
def test_mkl_stays_in_place_on_intel_s_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str | None, runs: bool
) -> None:
    reported = tmp_path / "cpuinfo"
    if vendor is not None:
        reported.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(machine, "CPUINFO", reported)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert dense.onednn_is_faster() == runs
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not dense.onednn_is_faster()


@ONEDNN
def test_products_of_any_strides() -> None:
    for name, A, _ in laid_out(drawn(20, 33)):
        for other, B, _ in laid_out(drawn(9, 33, seed=1)):
            found = dense.times_transposed(A, B)
            assert torch.allclose(found, A @ B.mT, atol=1e-4), f"{name} times {other}"


@pytest.mark.parametrize("change", ["no AVX512", "float64", "autocast"])
def test_elsewhere_pytorch_multiplies(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    def refuse(*_: Tensor) -> Tensor:
        raise AssertionError("oneDNN was called")

    monkeypatch.setattr(dense, "times_transposed", refuse)
    monkeypatch.setattr(dense, "BY_ONEDNN", change != "no AVX512")
    dtype = torch.float64 if change == "float64" else torch.float32
    x, W = drawn(4, 8).to(dtype).requires_grad_(), drawn(6, 8, seed=1).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        y = dense.linear(x, W)
        assert torch.equal(y, F.linear(x, W))
    y.sum().backward()
    assert kernels.products(4096, torch.bfloat16, CPU) is kernels.products(64, torch.float32, CPU) is twins
    assert kernels.products(96, torch.float64, CPU) is twins
    assert kernels.products(96, torch.float32, torch.device("meta")) is twins


@ONEDNN
@pytest.mark.parametrize("shape", [(96, 96), (3, 96, 130), (2, 200, 97)])
def test_polar_factors_by_both_kinds_of_products(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(dense, "BY_ONEDNN", True)
    G = drawn(*shape)
    assert kernels.products(96, torch.float32, CPU) is dense
    exact = orthogonalize(G.double(), method="newton-schulz", steps=5, dtype=torch.float64)
    found = orthogonalize(G, method="newton-schulz", steps=5)
    monkeypatch.setattr(dense, "FROM_ROWS", 10**9)
    plain = orthogonalize(G, method="newton-schulz", steps=5)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.double(), exact, rtol=0, atol=1e-5)


def test_a_product_that_is_not_symmetric_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        dense.ba_plus_cAA(drawn(3, 4), 1.0, 1.0)
    with pytest.raises(ValueError, match="symmetric"):
        dense.ba_plus_cAA(drawn(4, 4), 1.0, 1.0)
