"""Roles -> optimizers: Muon or AdamW for the hidden matrices, AdamW for all the rest, every parameter exactly once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ngpt.config import OptimConfig, RunConfig
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.projection import LazyProjection
from ngpt.optim.schedules import lr_factor, momentum_at
from ngpt.optim.sharded import cut_of


@dataclass
class Optimizers:
    """The optimizer of the hidden matrices, the one of the rest, and the projection."""

    config: RunConfig
    hidden: torch.optim.Optimizer
    aux: torch.optim.AdamW
    projection: LazyProjection

    @property
    def all(self) -> dict[str, torch.optim.Optimizer]:
        """Both by name."""
        return {"hidden": self.hidden, "aux": self.aux}

    def schedule(self, *, step: int, progress: float) -> float:
        """Set rates and momentum for the step after `step` finished ones, `progress` in [0, 1] of the run.

        Returns the rate of the hidden matrices.
        """
        optim = self.config.optim
        factor = lr_factor(optim, step=step, progress=progress)
        for group in self.hidden.param_groups:
            _set(group, "lr", optim.lr * factor)
            if isinstance(self.hidden, SimpleMuon):
                _set(group, "momentum", momentum_at(optim, step=step))
        for group in self.aux.param_groups:
            _set(group, "lr", optim.resolved_aux_lr * factor)
        return optim.lr * factor

    def move(self) -> None:
        """One step of both; the projection is the caller's next call."""
        self.hidden.step()
        self.aux.step()

    def fall_back(self) -> None:
        """From now on NorMuon moves the hidden matrices, with fresh state (`--nan-fallback normuon`)."""
        for group in self.hidden.param_groups:
            group["normuon"] = "short-axis"
        self.hidden.state.clear()
        self.projection.seen_drift = {}


def _set(group: dict[str, Any], name: str, value: float) -> None:
    """Where a group holds a tensor, a CUDA graph reads it there: then it is written to, not exchanged."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def build_optimizers(model: nn.Module, config: RunConfig, owned: Mapping[str, Tensor] | None = None) -> Optimizers:
    """The optimizers of `config` for `model`; raises ValueError unless they cover every trained parameter once.

    owned: those of the parameters, by name, that this process steps; None: all of the model's. It may be without a
    hidden matrix, but not without another parameter. Matrices may lie in shards (DTensor).
    """
    specs = parameter_specs(model)
    parameters = dict(model.named_parameters()) if owned is None else owned
    trained = {name: parameter for name, parameter in parameters.items() if specs[name].role != Role.FROZEN}
    matrices = {name: parameter for name, parameter in trained.items() if specs[name].role == Role.HIDDEN}
    others: list[Tensor] = [parameter for name, parameter in trained.items() if specs[name].role != Role.HIDDEN]
    dims = dict.fromkeys(spec.sphere_dim for spec in specs.values() if spec.role == Role.HIDDEN)
    if not dims or len(matrices) + len(others) != len([p for p in parameters.values() if p.requires_grad]):
        raise ValueError("the optimizers do not cover every trained parameter exactly once")

    optim, device = config.optim, others[0].device
    hidden: torch.optim.Optimizer
    if optim.optimizer == "muon":
        groups = [
            {"params": [parameter for name, parameter in matrices.items() if specs[name].sphere_dim == dim],
             "sphere_dim": dim}
            for dim in dims
        ]  # fmt: skip
        hidden = SimpleMuon(
            groups, lr=_rate(optim.lr, device), momentum=_rate(optim.momentum, device), **muon_settings(optim)
        )
    else:
        hidden = _adamw(list(matrices.values()), config, device, lr=optim.lr, weight_decay=optim.weight_decay)
    aux = _adamw(others, config, device, lr=optim.resolved_aux_lr, weight_decay=0.0)
    geodesic = isinstance(hidden, SimpleMuon) and optim.geodesic_muon is not None
    leaving = {role for role in Role if role != Role.HIDDEN or not geodesic}
    return Optimizers(config, hidden, aux, LazyProjection(parameters, specs, every=optim.lazy_proj_freq, roles=leaving))


def muon_settings(optim: OptimConfig) -> dict[str, Any]:
    """What SimpleMuon is told beside rate and momentum."""
    return {
        "weight_decay": optim.weight_decay, "nesterov": optim.nesterov, "ns_steps": optim.ns_steps,
        "adjust_lr_fn": optim.adjust_lr_fn, "orthogonalizer": optim.orthogonalizer,
        "polar_dtype": getattr(torch, optim.polar_dtype), "geodesic": optim.geodesic_muon, "tangent": optim.tangent,
        "momentum_transport": optim.momentum_transport, "match_step": optim.match_step, "normuon": optim.normuon,
        "beta2": optim.beta2, "cautious_wd": optim.cautious_wd,
    }  # fmt: skip


def _rate(value: float, device: torch.device) -> float | Tensor:
    """On a GPU a tensor, for CUDA graphs."""
    return value if device.type == "cpu" else torch.full((), value, device=device)


def _adamw(
    parameters: list[Tensor], config: RunConfig, device: torch.device, *, lr: float, weight_decay: float
) -> torch.optim.AdamW:
    betas = config.optim.adam_beta1, config.optim.adam_beta2
    whole = [parameter for parameter in parameters if cut_of(parameter) is None]
    in_shards = [parameter for parameter in parameters if cut_of(parameter) is not None]
    groups = [of for of in (whole, in_shards) if of] or [[]]  # the fused step takes one kind at a time
    return torch.optim.AdamW(
        [{"params": of} for of in groups], lr=_rate(lr, device), betas=betas, eps=1e-8, weight_decay=weight_decay,
        fused=True, capturable=device.type != "cpu",
    )  # fmt: skip
