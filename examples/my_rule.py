"""A template for an optimizer of your own: steps against the sign of the momentum, tangent to the sphere.

Train with it: `python train_architectural.py --optimizer examples/my_rule.py:MyRule --lr 0.01`.
"""

import torch


class MyRule(torch.optim.Optimizer):
    """Turn every unit vector by at most `lr` radians, against the tangent part of the sign of its momentum."""

    def __init__(self, params, lr, momentum=0.95):
        """Take groups of matrices; `--optimizer-args momentum=0.9` sets what has a default here."""
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        """Move every matrix once. Gradients are there; a schedule has set `group["lr"]`."""
        for group in self.param_groups:
            dim = group["sphere_dim"]  # the unit vectors: -1 for rows, -2 for columns
            for W in group["params"]:
                state = self.state[W]  # tensors and plain values, which a checkpoint keeps
                M = state.setdefault("momentum", torch.zeros_like(W))
                M.lerp_(W.grad, 1 - group["momentum"])
                U = M.sign() / W.shape[dim] ** 0.5  # unit vectors too
                U -= (U * W).sum(dim, keepdim=True) * W  # without the part along W
                W -= group["lr"] * U  # lazy projection brings W back to the sphere later
