"""What a step did to the unit vectors, measured and never fed back. See `Telemetry.measure` for the quantities."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ngpt import polar, sphere
from ngpt.model.layers import GatedResidual, PaperResidual
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.projection import LazyProjection
from ngpt.optim.sharded import whole_of
from ngpt.training.shares import Shares


class Telemetry:
    """Compares the weights before and after a step, by role."""

    def __init__(
        self,
        model: nn.Module,
        specs: Mapping[str, ParameterSpec],
        projection: LazyProjection,
        shares: Shares | None = None,
    ) -> None:
        """shares: which of the parameters this rank steps; None: all."""
        self.model = model
        self.projection = projection
        self.specs = specs
        self.shares = shares or Shares(model, specs)
        self.before: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Keep a copy of the weights before the step."""
        on_sphere = ((n, p) for n, p in self.shares.owned.items() if self.specs[n].sphere_dim is not None)
        self.before = {name: parameter.detach().clone() for name, parameter in on_sphere}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Figures of the step since `remember`, for each role on the sphere; of several ranks, on the first.

        rotation_<role>_rad: mean angle between a vector before and after; rotation_spread_<role>: its standard
        deviation over the vectors, relative to that. radial_share_<role>: root of the share of the update's squared
        length that points along the vectors, which projection throws away; of a step that keeps unit vectors, half the
        rotation. drift_<role>: largest | |w| - 1 | when the
        latest lazy projection came. orthogonality_error: of the hidden matrices' updates, scaled to the Frobenius norm
        of a polar factor; 0 if every update is a multiple of one. gate_*: the gates after the sigmoid; step_*: the
        effective residual step sizes.
        """
        found: dict[str, Tensor] = {}
        for name, part in self.before.items():
            before, after = whole_of(part), whole_of(self.shares.owned[name])
            if self.shares.owner[name] == self.shares.ranks.index:
                found |= {f"step.{name}.{key}": value for key, value in self._compare(name, before, after).items()}
        self.before = {}
        found, drift = self.shares.gather(found), self.seen_drift()
        if not self.shares.ranks.first:
            return {}
        angles: dict[Role, list[Tensor]] = {}
        radial: dict[Role, list[Tensor]] = {}
        length: dict[Role, list[Tensor]] = {}
        errors: list[Tensor] = []
        for name, spec in self.specs.items():
            of = f"step.{name}"
            if f"{of}.angle" in found:
                angles.setdefault(spec.role, []).append(found[f"{of}.angle"])
                radial.setdefault(spec.role, []).append(found[f"{of}.radial"])
                length.setdefault(spec.role, []).append(found[f"{of}.length"])
                errors += [found[f"{of}.error"]] if spec.role == Role.HIDDEN else []
        figures: dict[str, float] = {}
        for role in angles:
            angle = torch.cat(angles[role])
            figures[f"rotation_{role}_rad"] = angle.mean().item()
            if angle.any():
                figures[f"rotation_spread_{role}"] = (angle.std() / angle.mean()).item()
            total = torch.cat(length[role]).sum()
            if total > 0:
                figures[f"radial_share_{role}"] = (torch.cat(radial[role]).sum() / total).sqrt().item()
        figures |= {f"drift_{role}": value for role, value in drift.items()}
        if errors:
            figures["orthogonality_error"] = torch.stack(errors).mean().item()
        return figures | self._gates()

    def _compare(self, name: str, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Of one parameter: the angle of each vector, two squared lengths (1,) and, of a hidden matrix, the error."""
        dim = self.specs[name].sphere_dim
        assert dim is not None
        x, update = sphere.project(before, dim=dim), after - before
        found = {
            "angle": sphere.angle(x, sphere.project(after, dim=dim), dim=dim).flatten(),
            "radial": sphere.inner(x, update, dim=dim).square().sum().reshape(1),
            "length": update.square().sum().reshape(1),
        }
        if self.specs[name].role == Role.HIDDEN:
            k, norm = min(update.shape), torch.linalg.matrix_norm(update)
            found["error"] = polar.orthogonality_error(update * (k**0.5 / norm)) if norm > 0 else norm
        return found

    def seen_drift(self) -> dict[Role, float]:
        """`LazyProjection.seen_drift` over the parameters of all ranks."""
        seen = {role: value.item() for role, value in self.projection.seen_drift.items()}
        if self.shares.ranks.count == 1:
            return seen
        largest = dict(zip(Role, self.shares.ranks.largest([seen.get(role, -1.0) for role in Role]), strict=True))
        return {role: value for role, value in largest.items() if value >= 0}

    def _gates(self) -> dict[str, float]:
        gates = [p for n, p in self.model.named_parameters() if self.specs[n].role == Role.GATE]
        sizes = [m.step_size() for m in self.model.modules() if isinstance(m, PaperResidual | GatedResidual)]
        figures: dict[str, float] = {}
        for name, values in (("gate", [torch.sigmoid(gate) for gate in gates]), ("step", sizes)):
            if values:
                flat = torch.cat(values)
                figures |= {f"{name}_mean": flat.mean().item(), f"{name}_std": flat.std().item()}
        return figures
