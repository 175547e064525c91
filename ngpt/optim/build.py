"""Roles -> optimizers: one from the registry for the hidden matrices, AdamW for the rest, each parameter once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ngpt.config import OptimConfig, RunConfig, step_options
from ngpt.errors import InputError, require
from ngpt.foreign import failure
from ngpt.model.roles import ParameterSpec, Role, parameter_specs
from ngpt.optim import steps
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.projection import LazyProjection
from ngpt.optim.schedules import lr_factor, momentum_at
from ngpt.optim.sharded import shard_layout
from ngpt.optim.steps import StateTypes
from ngpt.registry import FOREIGN, VOCAB_RULES, entry, load

Group = dict[str, Any]

WATCHED_STEPS = 3
"""Steps after which a class of the user's is trusted to move only what it was given"""


@dataclass
class Optimizers:
    """The optimizer of the hidden matrices, the ones of the rest, and the projection."""

    config: RunConfig
    hidden: torch.optim.Optimizer
    aux: torch.optim.AdamW
    vocab: torch.optim.Optimizer | None
    """that of embedding and head, where it is not `aux`"""
    projection: LazyProjection
    dims: dict[Tensor, int]
    """dimension of the unit vectors of every hidden matrix"""
    moves: int = 0
    """steps made by this process"""

    def __post_init__(self) -> None:
        self.kinds = {W: (W.shape, W.dtype) for W in self.dims}

    @property
    def all(self) -> dict[str, torch.optim.Optimizer]:
        """All optimizers by name."""
        return {"hidden": self.hidden, "aux": self.aux} | ({} if self.vocab is None else {"vocab": self.vocab})

    @property
    def foreign(self) -> torch.optim.Optimizer | None:
        """The optimizer of the hidden matrices if its class was named by the user."""
        return self.hidden if entry(self.config.optim.optimizer) is FOREIGN else None

    @property
    def built_in(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers of the registry, by name."""
        return {name: optimizer for name, optimizer in self.all.items() if optimizer is not self.foreign}

    def schedule(self, *, step: int, progress: float) -> float:
        """Set rates and momentum for the step after `step` finished ones and return the rate of the hidden matrices.

        progress: share of the run that is done, in [0, 1].
        """
        optim = self.config.optim
        factor = lr_factor(optim, step=step, progress=progress)
        for group in self.hidden.param_groups:
            _set(group, "lr", optim.lr * factor)
            if optim.optimizer == "muon":
                _set(group, "momentum", momentum_at(optim, step=step))
        for group in self.aux.param_groups:
            _set(group, "lr", optim.resolved_aux_lr * factor)
        for group in [] if self.vocab is None else self.vocab.param_groups:
            _set(group, "lr", optim.vocab_lr * factor)
        return optim.lr * factor

    def move(self) -> None:
        """Step all optimizers; the caller projects next.

        Raises InputError if a class that the user names moves, in the first steps, what it was not given.
        """
        watched = self.foreign is not None and self.moves < WATCHED_STEPS
        rest = [optimizer for optimizer in self.all.values() if optimizer is not self.hidden]
        others = [p for one in rest for group in one.param_groups for p in group["params"]] if watched else []
        before = [p.detach().clone() for p in others]
        matched = self.config.optim.match_step == "angle" and self.config.optim.optimizer != "muon"
        rate = self.hidden.param_groups[0]["lr"]  # the schedule's, whatever a class makes of it
        weights = {W: W.detach().clone() for W in self.dims} if matched else {}
        self._step_hidden()
        for W, old in weights.items():
            _match_angle(W, old, rate, self.dims[W])
        if any(not p.equal(old) for p, old in zip(others, before, strict=True)):
            raise InputError(f"--optimizer {self.config.optim.optimizer}: it moves parameters that it was not given")
        self.moves += 1
        for optimizer in rest:
            optimizer.step()

    def _step_hidden(self) -> None:
        if self.foreign is None:
            self.hidden.step()
            return
        try:
            self.hidden.step()
        except (torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a class of the user's raises, SystemExit too
            raise failure(self.config.optim.optimizer, "its step() fails", error) from error
        if any((W.shape, W.dtype) != kind for W, kind in self.kinds.items()):
            raise InputError(f"--optimizer {self.config.optim.optimizer}: it changes the shape or dtype of a matrix")

    def fall_back(self) -> None:
        """Step the hidden matrices with NorMuon and fresh state from now on (`--nan-fallback normuon`)."""
        for group in self.hidden.param_groups:
            group["normuon"] = "short-axis"
        self.hidden.state.clear()
        self.projection.seen_drift = {}


@torch.no_grad()
def _match_angle(W: Tensor, before: Tensor, angle: float | Tensor, dim: int) -> None:
    """Scale the move of a matrix so that its unit vectors turn by `angle` on average, in radians, to first order."""
    W.copy_(before - angle * steps.match_angle(before, before - W, dim=dim))


def _set(group: Group, name: str, value: float) -> None:
    """Set an option of a group; a tensor, from which a CUDA graph reads it, is written to and not replaced."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def build_optimizers(model: nn.Module, config: RunConfig, owned: Mapping[str, Tensor] | None = None) -> Optimizers:
    """Build the optimizers of `config` for `model`; raises ValueError unless they cover every trained parameter once.

    owned: the parameters, by name, that this process steps; None: all of the model's. There may be no hidden matrix
    among them, but there must be another parameter. Matrices may be sharded (DTensor).

    Weights that the architecture leaves off the sphere at first are brought there if the step needs unit vectors.
    """
    specs = parameter_specs(model)
    parameters = dict(model.named_parameters()) if owned is None else owned
    trained = {name: parameter for name, parameter in parameters.items() if specs[name].role != Role.FROZEN}
    matrices = {name: parameter for name, parameter in trained.items() if specs[name].role == Role.HIDDEN}
    others: list[Tensor] = [parameter for name, parameter in trained.items() if specs[name].role != Role.HIDDEN]
    optim = config.optim
    of_spec = {spec: _group_options(spec, optim) for spec in specs.values() if spec.role == Role.HIDDEN}
    kinds = list({tuple(options.items()): options for options in of_spec.values()}.values())
    if not kinds or len(matrices) + len(others) != len([p for p in parameters.values() if p.requires_grad]):
        raise ValueError("the optimizers do not cover every trained parameter exactly once")

    chosen, device = entry(optim.optimizer), others[0].device
    groups: list[Group] = [
        {"params": [parameter for name, parameter in matrices.items() if of_spec[specs[name]] == options], **options}
        for options in kinds
    ]
    hidden = load(chosen.factory)(groups, optim, device)
    vocab = None
    if optim.vocab_rule != "adamw":
        of_vocab = {W: dim for name, W in trained.items() if (dim := _vocab_dim(specs[name])) is not None}
        vocab = load(VOCAB_RULES[optim.vocab_rule])(of_vocab, optim, device)
        others = [parameter for parameter in others if parameter not in of_vocab]
    aux = adamw(others, optim, device, lr=optim.resolved_aux_lr, weight_decay=0.0)
    leaving = {role for role in Role if role != Role.HIDDEN or not chosen.stays_on_sphere(optim)}
    first = 1 if config.model.starts_unprojected else None
    projection = LazyProjection(
        parameters, specs, every=optim.lazy_proj_freq, first=first, roles=leaving, constraint=optim.constraint
    )
    whole = all(shard_layout(W) is None for W in matrices.values())
    require(whole or optim.constraint in ("vectors", "none"), f"--constraint {optim.constraint} needs whole matrices")
    needs_vectors = _needs_unit_vectors(optim) or chosen.stays_on_sphere(optim) or optim.constraint != "vectors"
    if config.model.starts_unprojected and needs_vectors:
        projection.start()
    sphere_dims = {p: dim for name, p in matrices.items() if (dim := specs[name].sphere_dim) is not None}
    return Optimizers(config, hidden, aux, vocab, projection, sphere_dims)


def _vocab_dim(spec: ParameterSpec) -> int | None:
    """Return the dimension of the vectors of embedding and head; None for other parameters."""
    return spec.sphere_dim if spec.role in (Role.EMBEDDING, Role.HEAD) else None


def _group_options(spec: ParameterSpec, optim: OptimConfig) -> Group:
    """Return what a group of hidden matrices states beside its matrices."""
    options: Group = {"sphere_dim": spec.sphere_dim}
    if optim.normuon is not None and optim.normuon_matrices != "all":
        on = spec.part is not None and spec.part.value.startswith(optim.normuon_matrices)
        options["normuon"] = optim.normuon if on else None
    return options


def _needs_unit_vectors(optim: OptimConfig) -> bool:
    needing = [option for option in step_options().values() if option.metadata["unit_vectors"]]
    used = any(option.metadata["reads"](getattr(optim, option.name)) for option in needing)
    return used


# --- factories of the registry: (groups of matrices with their `sphere_dim`, options, device) -> optimizer -----------


def muon(groups: list[Group], optim: OptimConfig, device: torch.device) -> SimpleMuon:
    """Build SimpleMuon."""
    lr, momentum = _rate(optim.lr, device), _rate(optim.momentum, device)
    return SimpleMuon(groups, lr=lr, momentum=momentum, **muon_settings(optim))


def muon_settings(optim: OptimConfig) -> dict[str, Any]:
    """Return the arguments of SimpleMuon other than rate and momentum."""
    options = {keyword: getattr(optim, option.name) for keyword, option in step_options().items()}
    return options | {
        "weight_decay": optim.weight_decay, "nesterov": optim.nesterov, "ns_steps": optim.ns_steps,
        "adjust_lr_fn": optim.adjust_lr_fn, "polar_dtype": getattr(torch, optim.polar_dtype),
    }  # fmt: skip


def adam(groups: list[Group], optim: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """Build AdamW for the hidden matrices."""
    matrices = [parameter for group in groups for parameter in group["params"]]
    return adamw(matrices, optim, device, lr=optim.lr, weight_decay=optim.weight_decay)


def rmnp(dims: Mapping[Tensor, int], optim: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """Build RMNP for embedding and head. dims: the dimension of the vectors of each matrix."""
    require(all(shard_layout(W) is None for W in dims), f"--vocab-rule {optim.vocab_rule} needs whole matrices")
    groups = [{"params": [W], "sphere_dim": dim} for W, dim in dims.items()] or [{"params": [], "sphere_dim": -1}]
    kind = load("ngpt.rules.rmnp:RMNP")
    made: torch.optim.Optimizer = kind(groups, lr=_rate(optim.vocab_lr, device), skip_zero_grad=True)
    return made


def adamw(
    parameters: Sequence[Tensor], optim: OptimConfig, device: torch.device, *, lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Build AdamW with the betas of `optim`; whole and sharded parameters in groups of their own, as `fused` needs."""
    whole = [p for p in parameters if shard_layout(p) is None]
    sharded = [p for p in parameters if shard_layout(p) is not None]
    groups = [{"params": of} for of in (whole, sharded) if of] or [{"params": []}]
    return torch.optim.AdamW(
        groups, lr=_rate(lr, device), betas=(optim.adam_beta1, optim.adam_beta2), eps=1e-8, weight_decay=weight_decay,
        fused=True, capturable=device.type != "cpu",
    )  # fmt: skip


def _rate(value: float, device: torch.device) -> float | Tensor:
    """Return a number for a CPU and a tensor for a GPU, where CUDA graphs read it."""
    return value if device.type == "cpu" else torch.full((), value, device=device)


# --- state -----------------------------------------------------------------------------------------------------------


def state_types(optimizer: torch.optim.Optimizer) -> dict[Tensor, StateTypes]:
    """Return the types of the state that a step of an optimizer that this file builds leaves."""
    if not isinstance(optimizer, torch.optim.AdamW):
        own: dict[Tensor, StateTypes] = optimizer.state_types()  # type: ignore[attr-defined]  # SimpleMuon or RMNP
        return own
    return {
        p: {"step": ((), torch.float32), "exp_avg": (tuple(p.shape), p.dtype), "exp_avg_sq": (tuple(p.shape), p.dtype)}
        for group in optimizer.param_groups
        for p in group["params"]
    }
