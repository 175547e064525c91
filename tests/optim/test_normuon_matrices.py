"""`--normuon-matrices`: NorMuon for some of the hidden matrices, plain Muon for the others."""

from typing import Any

import pytest
import torch

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.presets import resolve

ATTENTION, MLP_IN, MLP_OUT = {"q", "k", "v", "o", "qkv"}, {"u", "g", "fc1"}, {"down", "fc2"}
PARTS = {
    "all": ATTENTION | MLP_IN | MLP_OUT, "attention": ATTENTION, "mlp": MLP_IN | MLP_OUT, "mlp-in": MLP_IN,
    "mlp-out": MLP_OUT,
}  # fmt: skip


def stepped(arch: Any, **fields: Any) -> dict[str, torch.Tensor]:
    """Return the hidden matrices by name after three steps with uneven gradients."""
    config = resolve("tiny", arch=arch, n_layer=2, n_embd=24, n_head=4, seq_len=8, lr=0.1, **fields)
    model = build_model(config.model, 17, seed=0)
    optimizers = build_optimizers(model, config)
    specs = parameter_specs(model)
    matrices = {name: W for name, W in model.named_parameters() if specs[name].role == Role.HIDDEN}
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        for W in matrices.values():
            W.grad = torch.randn(W.shape, generator=draw) * torch.logspace(0, 2, len(W)).unsqueeze(1)
        optimizers.hidden.step()
    return {name: W.detach() for name, W in matrices.items()}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gpt", "gated-literal"])
def test_only_the_named_matrices_are_reduced(arch: str, part: str) -> None:
    plain, reduced = stepped(arch), stepped(arch, normuon="rows")
    for name, W in stepped(arch, normuon="rows", normuon_matrices=part).items():
        inside = name.split(".")[-2] in PARTS[part]
        assert W.equal(reduced[name] if inside else plain[name]), name
        if plain[name].equal(reduced[name]):
            raise AssertionError(f"{name}: the two would not be told apart")


def test_without_normuon_it_is_refused() -> None:
    with pytest.raises(InputError, match="--normuon-matrices has no effect without --normuon"):
        resolve("tiny", normuon_matrices="mlp")
    assert OptimConfig(normuon="rows", normuon_matrices="mlp").normuon_matrices == "mlp"
