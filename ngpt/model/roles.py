"""Roles of parameters: a role decides the optimizer, a sphere axis the dimension of the unit vectors.

A module declares its parameters where it creates them; `parameter_specs` collects the declarations and checks that
every parameter of a model has exactly one. Nothing is guessed from names or shapes.
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn


class Role(StrEnum):
    """The part that a parameter plays in the model."""

    HIDDEN = "hidden"
    """matrix of an attention or MLP layer, the only kind that Muon steps"""
    EMBEDDING = "embedding"
    """token or position vectors that enter the residual stream"""
    HEAD = "head"
    """output vectors, one per token, and their scales"""
    GATE = "gate"
    """logits of the residual gates"""
    SCALAR = "scalar"
    """learned scales and step sizes"""
    FROZEN = "frozen"
    """counted, never trained"""


class Part(StrEnum):
    """The place of a hidden matrix in its block."""

    ATTENTION = "attention"
    """queries, keys, values and the output projection of attention"""
    MLP_IN = "mlp-in"
    """matrices whose rows are the hidden neurons of the MLP"""
    MLP_OUT = "mlp-out"
    """the matrix whose columns are the hidden neurons"""


@dataclass(frozen=True)
class ParameterSpec:
    """Role and sphere axis of one parameter."""

    role: Role
    sphere_dim: int | None = None
    """dimension along which the parameter consists of unit vectors; None if it is not on the sphere"""
    part: Part | None = None
    """place of a hidden matrix; None for all others"""


class Declared(nn.Module):
    """A module that declares the parameters it owns directly."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, ParameterSpec] = {}

    def declare(
        self, name: str, parameter: nn.Parameter, role: Role, sphere_dim: int | None = None, part: Part | None = None
    ) -> nn.Parameter:
        """Register `parameter` under `name` with its spec, and return it. A hidden matrix has a part."""
        self.register_parameter(name, parameter)
        self.specs[name] = ParameterSpec(role, sphere_dim, part)
        return parameter


def parameter_specs(model: nn.Module) -> dict[str, ParameterSpec]:
    """Return the spec of every parameter by its full name, in the order of `named_parameters`.

    Raises ValueError if a parameter has no spec or is shared between modules.
    """
    specs: dict[str, ParameterSpec] = {}
    for prefix, module in model.named_modules():
        for name, spec in getattr(module, "specs", {}).items():
            specs[f"{prefix}.{name}" if prefix else name] = spec
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    unspecified, unknown = set(names) - set(specs), set(specs) - set(names)
    if unspecified or unknown or len(names) != sum(1 for _ in model.parameters()):
        raise ValueError(f"parameters without a spec: {sorted(unspecified)}; specs without one: {sorted(unknown)}")
    return {name: specs[name] for name in names}
