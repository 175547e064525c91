"""`--vocab-rule rmnp`: row-normalized momentum for embedding and head."""

import numpy as np
import pytest
import torch
from oracles import rules as oracle

from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.presets import resolve
from ngpt.rules import RMNP

Array = np.ndarray


def test_vectors_with_a_gradient_move_as_in_the_source_and_others_rest() -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(6, 5))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    G = [rng.normal(size=(6, 5)) for _ in range(4)]
    for step, absent in enumerate(([], [1], [1, 4], [2])):
        G[step][absent] = 0.0
    parameter = torch.nn.Parameter(torch.tensor(W))
    optimizer = RMNP([{"params": [parameter], "sphere_dim": -1}], lr=0.1, momentum=0.8, skip_zero_grad=True)
    for number, gradient in enumerate(G):
        before = parameter.detach().numpy().copy()
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        moved = parameter.detach().numpy() - before
        assert list(np.flatnonzero((moved == 0).all(axis=1))) == [[], [1], [1, 4], [2]][number]
    for row in range(6):  # a vector goes the way it would go alone, over all steps, but for those in which it rests
        (want,) = oracle.rmnp(W[row : row + 1], [G[0][row : row + 1]], dim=-1, lr=0.1, momentum=0.8, nesterov=False)
        M, w = np.zeros(5), W[row].copy()
        for number, gradient in enumerate(G):
            M = 0.8 * M + 0.2 * gradient[row]
            if gradient[row].any():
                w = w - 0.1 * M / np.linalg.norm(M)
            if number == 0:
                np.testing.assert_allclose(w, want[0], atol=1e-14)
        np.testing.assert_allclose(parameter.detach().numpy()[row], w, atol=1e-14)


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gated-literal"])
def test_it_moves_embedding_and_head_and_adamw_the_rest(arch: str) -> None:
    ends = []
    for rule in ("adamw", "rmnp"):
        fields = {"vocab_rule": rule} | ({"vocab_lr": 0.05} if rule == "rmnp" else {})
        config = resolve("tiny", arch=arch, n_layer=1, n_embd=12, n_head=2, seq_len=8, **fields)  # type: ignore[arg-type]
        model = build_model(config.model, 17, seed=0)
        optimizers = build_optimizers(model, config)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        draw = torch.Generator().manual_seed(0)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
        optimizers.schedule(step=0, progress=0.0)
        optimizers.move()
        specs = parameter_specs(model)
        ends.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    tokens = {n for n, s in specs.items() if s.role in (Role.EMBEDDING, Role.HEAD) and s.sphere_dim is not None}
    assert len(tokens) == (3 if arch == "gated-literal" else 2)
    for name, moved in ends[1].items():
        if name in tokens:
            lengths = moved.norm(dim=specs[name].sphere_dim)
            torch.testing.assert_close(lengths, torch.full_like(lengths, 0.05), rtol=1e-4, atol=0)
        else:
            assert moved.equal(ends[0][name]), name


def test_its_rate_follows_the_schedule_and_needs_the_rule() -> None:
    config = resolve("tiny", vocab_rule="rmnp", vocab_lr=0.05, schedule="linear")
    optimizers = build_optimizers(build_model(config.model, 17, seed=0), config)
    optimizers.schedule(step=100, progress=0.5)
    assert optimizers.vocab is not None
    assert {group["lr"] for group in optimizers.vocab.param_groups} == {0.025}
    for refused in ({"vocab_lr": 0.05}, {"vocab_rule": "rmnp", "arch": "gpt"}):
        with pytest.raises(InputError, match="--vocab-(lr|rule) has no effect with"):
            resolve("tiny", **refused)  # type: ignore[arg-type]
