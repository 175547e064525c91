"""Configuration and seed -> an initialized model."""

import torch
from torch import nn

from ngpt import sphere
from ngpt.config import Arch, ModelConfig
from ngpt.model.control import ControlTransformer
from ngpt.model.literal import LiteralTransformer
from ngpt.model.roles import Role, parameter_specs
from ngpt.model.sphere_transformer import SphereTransformer

MODELS: dict[Arch, type[nn.Module]] = {
    "gated-ngpt": SphereTransformer,
    "ngpt": SphereTransformer,
    "gpt": ControlTransformer,
    "gated-literal": LiteralTransformer,
}

CONTROL_STD = 0.02
"""Initial standard deviation of the control's matrices (GPT-2's)."""


def build_model(config: ModelConfig, vocab_size: int, *, seed: int) -> nn.Module:
    """Build the model of `config` on the CPU in float32, with matrices drawn from `seed` alone.

    Matrices on the sphere are drawn with standard deviation 1/sqrt(D) and projected, so that they consist of unit
    vectors before the first step. The control's are drawn with 0.02, those that write to the residual stream with
    0.02 / sqrt(2 n_layer). Those of gated-literal are drawn as PyTorch's own layers do, uniform in +-1 / sqrt(n_in),
    embeddings normal, and not projected.
    """
    model = MODELS[config.arch](config, vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for (name, parameter), spec in zip(model.named_parameters(), parameter_specs(model).values(), strict=True):
            if config.starts_unprojected and spec.role == Role.EMBEDDING:
                parameter.normal_(generator=generator)
            elif config.starts_unprojected and spec.sphere_dim is not None:
                parameter.uniform_(-(parameter.size(1) ** -0.5), parameter.size(1) ** -0.5, generator=generator)
            elif spec.sphere_dim is not None:
                parameter.normal_(std=config.n_embd**-0.5, generator=generator)
                parameter.copy_(sphere.project(parameter, dim=spec.sphere_dim))
            elif parameter.ndim == 2:
                writes = name.endswith(("attention.o.weight", "mlp.down.weight"))
                parameter.normal_(std=CONTROL_STD / (2 * config.n_layer) ** (writes / 2), generator=generator)
    return model
