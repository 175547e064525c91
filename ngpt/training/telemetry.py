"""Telemetry: what a step did to the unit vectors, measured and never fed back. See `Telemetry.measure`."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ngpt import polar, sphere
from ngpt.model.layers import GatedResidual, PaperResidual
from ngpt.model.roles import ParameterSpec, Role
from ngpt.model.sphere_transformer import SphereTransformer
from ngpt.optim.projection import LazyProjection
from ngpt.optim.sharded import full_tensor
from ngpt.training.sharding import ParameterSharding

LIMIT = 0.25
"""Share of its largest possible pace beyond which a logit scale that still climbs is said to limit a run"""


class LogitScale:
    """Watches how fast the mean logit scale climbs, from one measurement of telemetry to the next.

    AdamW moves a parameter by about its rate a step, so the scale s_z, whose effective value is its parameter times
    init / stored, can climb by at most the sum of aux_lr(t) * init / stored over the steps t that were made. `pace` is
    the climb since the previous measurement divided by that sum over the steps after it.
    """

    STATE: ClassVar[set[str]] = {"mean", "possible", "pace"}

    def __init__(self, model: nn.Module) -> None:
        self.scale = model.s_z if isinstance(model, SphereTransformer) else None
        self.state: dict[str, float] = {}
        """what a resumed run continues from: latest mean, sum of the largest climbs since then, latest pace"""

    def stepped(self, aux_lr: float) -> None:
        """Count a step that was made at this rate of AdamW."""
        if self.scale is not None and "mean" in self.state:
            self.state["possible"] += aux_lr * self.scale.factor

    def measure(self) -> dict[str, float]:
        """Return `logit_scale_mean` and, from the second measurement on, `logit_scale_pace`; nothing without a scale.

        The scale is a vector, which every rank has.
        """
        if self.scale is None:
            return {}
        mean = self.scale().mean().item()
        if self.state.get("possible"):
            self.state["pace"] = (mean - self.state["mean"]) / self.state["possible"]
        self.state |= {"mean": mean, "possible": 0.0}
        pace = self.state.get("pace")
        return {"logit_scale_mean": mean} | ({} if pace is None else {"logit_scale_pace": pace})

    def limits(self) -> bool:
        """Return whether the run is limited by its logit scale: whether its latest `pace` is above LIMIT.

        That of the stretch between the last two measurements; False where there were not two.
        """
        return self.state.get("pace", 0.0) > LIMIT


class Telemetry:
    """Compares the weights before and after a step, by role, and knows the drift of the latest projection."""

    def __init__(
        self, model: nn.Module, specs: Mapping[str, ParameterSpec], projection: LazyProjection,
        sharding: ParameterSharding, *, every: int,
    ) -> None:  # fmt: skip
        """every: steps between figures; 0: never any."""
        self.model, self.specs, self.projection, self.sharding, self.every = model, specs, projection, sharding, every
        self.before: dict[str, Tensor] = {}
        self.logit_scale = LogitScale(model)

    def is_due(self, step: int) -> bool:
        """Return whether to measure the `step`-th step, counted from 1."""
        return self.every > 0 and (step % self.every == 0 or step == 1)

    def reads_drift(self, step: int) -> bool:
        """Return whether figures are due after the `step`-th step and before the next projection but one.

        Only then does the projection measure the drift, which costs as much as the projection itself.
        """
        return self.every > 0 and (step // self.every + 1) * self.every <= step + self.projection.every

    @torch.no_grad()
    def remember(self) -> None:
        """Keep a copy of the weights before the step."""
        on_sphere = ((n, p) for n, p in self.sharding.owned.items() if self.specs[n].sphere_dim is not None)
        self.before = {name: parameter.detach().clone() for name, parameter in on_sphere}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return figures of the step since `remember`, by role on the sphere; with several ranks, on rank 0 only.

        rotation_<role>_rad: mean angle between a vector before and after. rotation_spread_<role>: standard deviation of
        that angle over the vectors, divided by its mean. radial_share_<role>: square root of the share of the update's
        squared length that points along the vectors, which projection removes; for a step that keeps unit vectors, half
        the rotation. drift_<role>: largest | |w| - 1 | just before the latest lazy projection. orthogonality_error: of
        the hidden matrices' updates, scaled to the Frobenius norm of a polar factor; 0 if every update is a multiple of
        one. gate_*: the gates after the sigmoid. step_*: the effective residual step sizes.
        logit_scale_*: `LogitScale`.
        """
        found: dict[str, Tensor] = {}
        for name, part in self.before.items():
            before, after = full_tensor(part), full_tensor(self.sharding.owned[name])
            if self.sharding.owner[name] == self.sharding.ranks.index:
                found |= {f"{name}.{key}": value for key, value in self._compare(name, before, after).items()}
        self.before = {}
        found, drift, scale = self.sharding.gather(found), self.seen_drift(), self.logit_scale.measure()
        if not self.sharding.ranks.is_first:
            return {}
        figures: dict[str, float] = {}
        roles = {name: spec.role for name, spec in self.specs.items() if f"{name}.angle" in found}
        for role in dict.fromkeys(roles.values()):
            names, keys = [name for name in roles if roles[name] == role], ("angle", "radial", "length")
            angle, radial, length = (torch.cat([found[f"{name}.{key}"] for name in names]) for key in keys)
            figures[f"rotation_{role}_rad"] = angle.mean().item()
            if angle.any():
                figures[f"rotation_spread_{role}"] = (angle.std() / angle.mean()).item()
            if length.sum() > 0:
                figures[f"radial_share_{role}"] = (radial.sum() / length.sum()).sqrt().item()
        figures |= {f"drift_{role}": value for role, value in drift.items()}
        if errors := [found[f"{name}.error"] for name in self.specs if f"{name}.error" in found]:
            figures["orthogonality_error"] = torch.stack(errors).mean().item()
        return figures | self._gates() | scale

    def _compare(self, name: str, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Return each vector's angle, two squared lengths (1,) and, for a hidden matrix, the orthogonality error."""
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

    def seen_drift(self) -> dict[str, float]:
        """Return `LazyProjection.seen_drift` over the parameters of all ranks, by role."""
        seen = self.projection.seen_drift
        largest = self.sharding.ranks.all_reduce_max([seen[role].item() if role in seen else -1.0 for role in Role])
        return {role.value: value for role, value in zip(Role, largest, strict=True) if not value < 0}

    def _gates(self) -> dict[str, float]:
        gates = [p for n, p in self.model.named_parameters() if self.specs[n].role == Role.GATE]
        sizes = [m.step_size() for m in self.model.modules() if isinstance(m, PaperResidual | GatedResidual)]
        figures: dict[str, float] = {}
        for name, values in (("gate", [torch.sigmoid(gate) for gate in gates]), ("step", sizes)):
            if values:
                flat = torch.cat(values)
                figures |= {f"{name}_mean": flat.mean().item(), f"{name}_std": flat.std().item()}
        return figures
