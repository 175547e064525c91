"""A trial of an optimizer class on a few small matrices, before a run trusts it with a model.

Most of what makes a class unfit here shows in a handful of steps: a step that needs a closure, a state that a resumed
run would not have, numbers drawn from the global random generator, a rate that is read only once. Each check returns
None, or why the class is refused, in words for its author. What only makes it a poor optimizer is left to campaigns.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.foreign import claims, explain, is_class, load_class
from ngpt.optim.foreign import (
    UnsavableError,
    construct,
    pack,
    random_state,
    restore_random,
    seed_random,
    unpack,
)

SHAPES = ((96, 64), (64, 96), (64, 64), (96, 64))
"""Shapes of the matrices of the trial, two of them equal, as in a model"""

STEPS = 26
"""Steps of a trial; half of them are repeated from a saved state. Some state acts only now and then"""


@dataclass
class Trial:
    """An optimizer on matrices of its own, with gradients that depend on nothing but the step."""

    optimizer: torch.optim.Optimizer
    matrices: list[Tensor]

    def step(self, number: int, *, lr: float | None = None) -> None:
        """Make one step, at another rate if given."""
        for W, gradient in zip(self.matrices, self.gradients(number), strict=True):
            W.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        self.optimizer.step()

    def gradients(self, number: int) -> list[Tensor]:
        """Return the gradients of a step, drawn anew: a class may write to those it gets, or drop them."""
        draw = torch.Generator().manual_seed(1000 + number)
        return [torch.randn(W.shape, generator=draw) for W in self.matrices]

    def weights(self) -> list[Tensor]:
        """Return copies of the matrices."""
        return [W.detach().clone() for W in self.matrices]


def trial(optimizer: str, lr: float, arguments: str) -> Trial:
    """Build an optimizer on the matrices of the trial: rows of unit length in the first half, columns in the second."""
    draw, half = torch.Generator().manual_seed(0), len(SHAPES) // 2
    matrices: list[Tensor] = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    with torch.no_grad():
        for number, W in enumerate(matrices):
            W.div_(W.norm(dim=-1 if number < half else -2, keepdim=True))
    seed_random(0)
    groups = [{"params": matrices[:half], "sphere_dim": -1}, {"params": matrices[half:], "sphere_dim": -2}]
    return Trial(construct(optimizer, groups, lr, arguments), list(matrices))


def refusal(optimizer: str, lr: float, arguments: str) -> str | None:
    """Return why a class cannot train here, in one line; None if nothing was found. Restores the random state."""
    state = random_state()
    try:
        for check in CHECKS:
            try:
                reason = check(lambda: trial(optimizer, lr, arguments), lr)
            except (InputError, KeyboardInterrupt):
                raise
            except BaseException as error:  # whatever the class raises, SystemExit too
                reason = f"{WHAT.get(check, 'it fails in a trial')}: {explain(optimizer, error)}"
            if reason is not None:
                return reason
    finally:
        restore_random(state)
    return None


def require_fit(optim: OptimConfig) -> None:
    """Raise InputError if --optimizer names a class that cannot train here, or not with these options."""
    if not is_class(optim.optimizer):
        return
    reason = refusal(optim.optimizer, optim.lr, optim.optimizer_args)
    if reason is None and optim.constraint != "vectors" and claims(optim.optimizer, "stays_on_sphere"):
        reason = f"it says stays_on_sphere, so --constraint {optim.constraint} has no effect"
    if reason is None and optim.constraint != "none" and claims(optim.optimizer, "keeps_norm"):
        reason = "it says keeps_norm, so it needs --constraint none"
    if reason is None and optim.match_step == "angle" and claims(optim.optimizer, "keeps_position"):
        reason = "it says keeps_position, so its moves cannot be rescaled by --match-step angle"
    if reason is not None:
        raise InputError(f"--optimizer {optim.optimizer}: {reason}")


Make = Callable[[], Trial]


def steps_without_a_closure(make: Make, lr: float) -> str | None:
    """Refuse a class whose step() does not run: gradients are there, and there is no closure."""
    one = make()
    for number in range(STEPS):
        one.step(number)
    return None


def moves_its_matrices(make: Make, lr: float) -> str | None:
    """Refuse a class that leaves a matrix where it was, or changes its shape or dtype, or makes it infinite."""
    one = make()
    before = one.weights()
    for number in range(STEPS):
        one.step(number)
    for old, new in zip(before, one.matrices, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            return f"it turns a matrix of {tuple(old.shape)}, {old.dtype} into {tuple(new.shape)}, {new.dtype}"
        if not new.isfinite().all():
            return f"after {STEPS} steps on random gradients a matrix is not finite"
        if old.equal(new):
            return f"{STEPS} steps leave a matrix of {tuple(old.shape)} as it was"
    return None


def reads_the_rate_at_every_step(make: Make, lr: float) -> str | None:
    """Refuse a class that no schedule reaches: one sets `group["lr"]` before every step."""
    ends = []
    for last in (lr, 0.5 * lr):
        one = make()
        for number in range(STEPS):
            one.step(number, lr=last if number >= STEPS - 2 else lr)  # some read it for the next step
        ends.append(one.weights())
    if any(a.equal(b) for a, b in zip(*ends, strict=True)):
        return 'it does not read group["lr"] at every step, so no schedule reaches it'
    return None


def keeps_its_promise(make: Make, lr: float) -> str | None:
    """Refuse a class that says that it stays on the sphere and leaves it."""
    one = make()
    if not getattr(one.optimizer, "stays_on_sphere", False):
        return None
    for number in range(STEPS):
        one.step(number)
    dims = [group["sphere_dim"] for group in one.optimizer.param_groups for _ in group["params"]]
    far = max(float((W.detach().norm(dim=dim) - 1).abs().max()) for W, dim in zip(one.matrices, dims, strict=True))
    return f"it says stays_on_sphere, and after {STEPS} steps | |w| - 1 | is {far:.2g}" if far > 1e-4 else None


def is_deterministic(make: Make, lr: float) -> str | None:
    """Refuse a class whose equal steps differ, with the global random generators in the same state."""
    ends = []
    for _ in range(2):
        one = make()
        for number in range(STEPS):
            one.step(number)
        ends.append(one.weights())
    if not all(a.equal(b) for a, b in zip(*ends, strict=True)):
        return "equal steps from equal states differ: it depends on something else, such as the time"
    return None


def resumes_from_its_state(make: Make, lr: float) -> str | None:
    """Refuse a class that does not go on to the bit where a new one has its saved state."""
    whole = make()
    for number in range(STEPS):
        whole.step(number)
    load_class.cache_clear()  # what a file keeps in its module is not saved: another process begins without it
    first = make()
    for number in range(STEPS // 2):
        first.step(number)
    try:
        tensors, content = pack("hidden", first.optimizer)
    except UnsavableError as error:
        return f"its state cannot be saved as tensors and plain values: {error}"
    load_class.cache_clear()
    second = make()
    with torch.no_grad():
        for W, end in zip(second.matrices, first.weights(), strict=True):
            W.copy_(end)
    saved = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    unpack(second.optimizer, saved, copy.deepcopy(content))
    for number in range(STEPS // 2, STEPS):
        second.step(number)
    if not all(a.equal(b) for a, b in zip(whole.weights(), second.weights(), strict=True)):
        return "it does not go on from its state_dict() to the bit: some of its state is kept elsewhere than self.state"
    return None


def needs_no_modes(make: Make, lr: float) -> str | None:
    """Refuse a class with other weights for validation: nobody calls its method eval."""
    optimizer = make().optimizer
    modes = [name for name in ("train", "eval") if callable(getattr(optimizer, name, None))]
    if len(modes) == 2:
        return "it has methods train and eval: it would validate with weights other than those it trains"
    return None


CHECKS: tuple[Callable[[Make, float], str | None], ...] = (
    needs_no_modes, steps_without_a_closure, moves_its_matrices, reads_the_rate_at_every_step, keeps_its_promise,
    is_deterministic, resumes_from_its_state,
)  # fmt: skip


WHAT: dict[Callable[[Make, float], str | None], str] = {
    steps_without_a_closure: "its step() fails",
    resumes_from_its_state: "it does not go on from its state_dict()",
}
"""The reason to give where a class raises in a check"""


def along_the_gradient(optimizer: str, lr: float, arguments: str) -> float:
    """Return the cosine between a class's moves and its gradients while these stay the same; negative if it descends.

    Summed over a few steps, since momentum and preconditioners need some.
    """
    one = trial(optimizer, lr, arguments)
    before = one.weights()
    for _ in range(STEPS):
        one.step(0)
    moves = torch.cat([(new - old).flatten() for old, new in zip(before, one.weights(), strict=True)])
    gradients = torch.cat([gradient.flatten() for gradient in one.gradients(0)])
    return float(torch.cosine_similarity(moves, gradients, dim=0))


