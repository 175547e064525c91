"""AngularMuown with frozen gains: Muon on the sphere, with tangent gradients and an optional decay of its own."""

from typing import Any

from torch import Tensor

from ngpt import polar, sphere
from ngpt.optim.steps import shape_factor
from ngpt.rules.base import Group, MatrixRule, State, require, vector_dim


class AngularMuown(MatrixRule):
    """Average the tangent part of the gradient, orthogonalize, step, and bring each vector back to length 1.

        M <- mu M + (G_w - <G_w, w> w),   Q = polar(G_w - <G_w, w> w + mu M)
        W <- N(W - lr kappa(t) sqrt(max(1, m / n)) Q),   kappa(t) = (1 + c max(0, t - t0))^-p

    t: steps before this one. c, p: `decay_scale`, `decay_degree`; t0: `decay_after`. The source has p = 1, with a
    rate that is constant for most of a run, and p = 0 with a cosine. The default here is 0: use `--schedule`.

    Source: arXiv 2606.23637 and its code, fhueb/angular-muown. Differs: the gains of the rows, which it trains with
    Adam, stay at 1; it normalizes rows, and this the vectors of nGPT; it orthogonalizes in bfloat16 with other
    coefficients.
    """

    stays_on_sphere = True

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, nesterov: bool = True, decay_scale: float = 0.001,
        decay_degree: float = 0.0, decay_after: int = 0, ns_steps: int = 5,
    ):  # fmt: skip
        require(decay_scale >= 0 and decay_degree >= 0, "decay_scale and decay_degree must not be negative")
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, decay_scale=decay_scale, decay_degree=decay_degree,
            decay_after=decay_after, ns_steps=ns_steps, steps_made=0,
        )  # fmt: skip

    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient once, count the step, and return what `closure` returns."""
        loss = super().step(closure)
        for group in self.param_groups:
            group["steps_made"] += 1
        return loss

    def update_momentum(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Average tangent gradients; the source sums them, which gives the same direction."""
        return super().update_momentum(W, sphere.tangent(W, G, dim=vector_dim(group)), state, group)

    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return the polar factor by Polar Express, with the factor by shape."""
        O = polar.orthogonalize(X, method="polar-express", steps=group["ns_steps"], dtype=X.dtype)
        return shape_factor(W.shape, None) * O

    def move(self, W: Tensor, D: Tensor, group: Group) -> None:
        """Step with the rate of this step and return to the sphere."""
        late = max(0, group["steps_made"] - group["decay_after"])
        kappa = (1 + group["decay_scale"] * late) ** -group["decay_degree"]
        W.copy_(sphere.retract(W, -group["lr"] * kappa * D, dim=vector_dim(group)))
