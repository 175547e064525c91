"""What a step did to the unit vectors, measured and never fed back. See `Telemetry.measure` for the quantities."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ngpt import polar, sphere
from ngpt.model.layers import GatedResidual, PaperResidual
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.projection import LazyProjection


class Telemetry:
    """Compares the weights before and after a step, by role."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], projection: LazyProjection) -> None:
        self.model = model
        self.projection = projection
        self.specs = specs
        self.before: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Keep a copy of the weights before the step."""
        on_sphere = ((n, p) for n, p in self.model.named_parameters() if self.specs[n].sphere_dim is not None)
        self.before = {name: parameter.detach().clone() for name, parameter in on_sphere}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Figures of the step since `remember`, for each role on the sphere.

        rotation_<role>_rad: mean angle between a vector before and after; rotation_spread_<role>: its standard
        deviation over the vectors, relative to that. radial_share_<role>: root of the share of the update's squared
        length that points along the vectors, which projection throws away; of a step that keeps unit vectors, half the
        rotation. drift_<role>: largest | |w| - 1 | when the
        latest lazy projection came. orthogonality_error: of the hidden matrices' updates, scaled to the Frobenius norm
        of a polar factor; 0 if every update is a multiple of one. gate_*: the gates after the sigmoid; step_*: the
        effective residual step sizes.
        """
        angles: dict[Role, list[Tensor]] = {}
        radial: dict[Role, list[Tensor]] = {}
        length: dict[Role, list[Tensor]] = {}
        errors: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            if name not in self.before:
                continue
            role, dim = self.specs[name].role, self.specs[name].sphere_dim
            assert dim is not None
            before, update = self.before[name], parameter - self.before[name]
            x = sphere.project(before, dim=dim)
            angles.setdefault(role, []).append(sphere.angle(x, sphere.project(parameter, dim=dim), dim=dim).flatten())
            radial.setdefault(role, []).append(sphere.inner(x, update, dim=dim).square().sum())
            length.setdefault(role, []).append(update.square().sum())
            if role == Role.HIDDEN:
                k = min(update.shape)
                norm = torch.linalg.matrix_norm(update)
                errors.append(polar.orthogonality_error(update * (k**0.5 / norm)) if norm > 0 else norm)
        figures: dict[str, float] = {}
        for role in angles:
            angle = torch.cat(angles[role])
            figures[f"rotation_{role}_rad"] = angle.mean().item()
            if angle.any():
                figures[f"rotation_spread_{role}"] = (angle.std() / angle.mean()).item()
            total = torch.stack(length[role]).sum()
            if total > 0:
                figures[f"radial_share_{role}"] = (torch.stack(radial[role]).sum() / total).sqrt().item()
        figures |= {f"drift_{role}": drift.item() for role, drift in self.projection.seen_drift.items()}
        if errors:
            figures["orthogonality_error"] = torch.stack(errors).mean().item()
        self.before = {}
        return figures | self._gates()

    def _gates(self) -> dict[str, float]:
        gates = [p for n, p in self.model.named_parameters() if self.specs[n].role == Role.GATE]
        sizes = [m.step_size() for m in self.model.modules() if isinstance(m, PaperResidual | GatedResidual)]
        figures: dict[str, float] = {}
        for name, values in (("gate", [torch.sigmoid(gate) for gate in gates]), ("step", sizes)):
            if values:
                flat = torch.cat(values)
                figures |= {f"{name}_mean": flat.mean().item(), f"{name}_std": flat.std().item()}
        return figures
