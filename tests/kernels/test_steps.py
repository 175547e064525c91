"""The optimizer, the projection and the models give the same results with the kernels as with the twins."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("triton")
import torch
from helpers import EPS, EPS32, drawn
from torch import Tensor, nn

from ngpt import kernels, sphere
from ngpt.config import ModelConfig
from ngpt.kernels import fused
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.projection import LazyProjection

SHAPES = [(12, 20), (20, 12), (12, 20), (16, 16)]
BOTH = {"momentum_step_": 3 * len(SHAPES), "geodesic_move_": 3 * len(SHAPES)}
FIRST = {"momentum_step_": BOTH["momentum_step_"]}
STACKED = {**BOTH, "geodesic_move_": 3 * len(set(SHAPES))}
"""These options stack the weights of one shape, which then rotate together."""

OPTIONS = [
    pytest.param({}, FIRST, id="plain"),
    pytest.param({"nesterov": False, "weight_decay": 0.1}, FIRST, id="heavy ball"),
    pytest.param({"normuon": "short-axis"}, FIRST, id="normuon"),
    pytest.param({"geodesic": "lr"}, BOTH, id="geodesic lr"),
    pytest.param({"geodesic": "lr-norm"}, BOTH, id="geodesic lr-norm"),
    pytest.param({"geodesic": "lr-norm", "sphere_dim": 0}, BOTH, id="columns"),
    pytest.param({"geodesic": "lr-norm", "normuon": "rows", "match_step": "rms"}, BOTH, id="normuon and geodesic"),
    pytest.param({"geodesic": "lr-norm", "tangent": "before"}, STACKED, id="tangent before"),
    pytest.param({"geodesic": "lr-norm", "momentum_transport": "parallel"}, STACKED, id="transport"),
    pytest.param({"geodesic": "lr-norm", "orthogonalizer": "svd"}, BOTH, id="svd"),
    pytest.param({"geodesic": "lr", "orthogonalizer": "polar-express"}, BOTH, id="polar-express"),
    pytest.param({"geodesic": "lr-norm", "polar_dtype": torch.bfloat16}, BOTH, id="bfloat16"),
    pytest.param({"polar_dtype": torch.bfloat16}, FIRST, id="plain in bfloat16"),
    pytest.param({"geodesic": "lr-norm", "lr": torch.tensor(0.05), "momentum": torch.tensor(0.9)}, BOTH, id="tensors"),
]


@contextmanager
def through_kernels() -> Iterator[Counter[str]]:
    """Let kernels run on the interpreter's device, and yield a count of calls per kernel."""
    called: Counter[str] = Counter()

    def counting(name: str) -> Any:
        function = getattr(fused, name)

        def run(*args: Any, **options: Any) -> Any:
            called[name] += 1
            return function(*args, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "triton_runs", lambda device: True)
        for name in ("momentum_step_", "geodesic_move_", "project_", "residual_step"):
            patch.setattr(fused, name, counting(name))
        yield called


def three_steps(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and momenta after three steps on matrices of several shapes; gradients share a constant part."""
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "polar_dtype": torch.float32, **options}
    options.setdefault("sphere_dim", -1)
    W = [sphere.project(drawn(*shape, seed=seed), dim=options["sphere_dim"]) for seed, shape in enumerate(SHAPES)]
    parameters = [nn.Parameter(w.to(dtype)) for w in W]
    optimizer = SimpleMuon(parameters, **options)
    for step in range(3):
        for seed, parameter in enumerate(parameters):
            lasting, fresh = drawn(*parameter.shape, seed=100 + seed), drawn(*parameter.shape, seed=10 * step + seed)
            parameter.grad = (lasting + fresh).to(dtype)
        optimizer.step()
    momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    return [parameter.detach() for parameter in parameters], momenta


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_three_steps_of_the_optimizer(options: dict[str, Any], expected: dict[str, int]) -> None:
    """Momenta agree to roundings of gradients of up to 4, weights to those of three polar factors times the rate 0.05.

    The five iterations of a polar factor multiply a rounding by up to 485 where a singular value is small, here by
    about 10. The rounding is that of float32, or of bfloat16, to which the interpreter truncates where torch rounds.
    """
    W, M = three_steps(options)
    with through_kernels() as called:
        W_kernels, M_kernels = three_steps(options)
    assert called == expected
    rounding = EPS[options.get("polar_dtype", torch.float32)]
    for one, other in zip(M_kernels, M, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=4 * EPS32)
    for one, other in zip(W_kernels, W, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3 * 0.05 * 10 * rounding + 4 * EPS32)


def test_the_optimizer_in_float64_stays_with_torch() -> None:
    W, _ = three_steps({"geodesic": "lr", "polar_dtype": torch.float64}, torch.float64)
    with through_kernels() as called:
        W_kernels, _ = three_steps({"geodesic": "lr", "polar_dtype": torch.float64}, torch.float64)
    assert not called and all(torch.equal(one, other) for one, other in zip(W, W_kernels, strict=True))


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt"])
def test_projection(arch: Any) -> None:
    """Rows and columns of a model whose weights are off the sphere."""
    projected = []
    for run in (False, True):
        model = build_model(ModelConfig(arch=arch, n_layer=1, n_embd=12, n_head=2, seq_len=8), 11, seed=0)
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(0.3 * drawn(*parameter.shape, seed=number))
        projection = LazyProjection(dict(model.named_parameters()), parameter_specs(model), every=2)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        if run:
            with through_kernels() as called:
                projection.after_step(1)
                assert not called
                with projection.projected():
                    pass
                assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
                projection.after_step(2)
            assert called == {"project_": 2 * len(projection.points)}
        else:
            projection.after_step(2)
        projected.append([parameter.detach() for parameter in model.parameters()])
    for one, other in zip(*projected, strict=True):
        torch.testing.assert_close(one, other, rtol=4 * EPS32, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt"])
def test_a_model(arch: Any, dtype: torch.dtype) -> None:
    """Loss and gradients agree to roundings, each gradient relative to its norm; products may be in bfloat16.

    There are four residual steps, forward and backward. A scalar's gradient sums terms of both signs over all of them
    and loses about ten more roundings. The interpreter truncates when it stores bfloat16.
    """
    allowed = {torch.float32: 32, torch.bfloat16: 4}[dtype] * EPS[dtype]
    ids = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(0))
    losses, gradients = [], []
    for run in (False, True):
        model = build_model(ModelConfig(arch=arch, n_layer=2, n_embd=12, n_head=2, seq_len=8), 11, seed=0)
        with pytest.MonkeyPatch.context() as patch:
            if run:
                patch.setattr(kernels, "triton_runs", lambda device: True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = model(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0], rtol=2 * EPS[dtype], atol=0)
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None and other is not None
        assert (other - gradient).norm() <= allowed * gradient.norm(), name
