"""`--nan-fallback`: when gradients stay non-finite, go back one step and let NorMuon move the hidden matrices."""

import torch

from ngpt.optim.build import Optimizers
from ngpt.optim.sharded import local_of
from ngpt.training.record import RunRecord
from ngpt.training.sharding import ParameterSharding


class Fallback:
    """A snapshot of the weights before the latest step, until NorMuon takes over from them, which it does once.

    In a resumed run that has fallen back already, NorMuon takes over at once.
    """

    def __init__(self, sharding: ParameterSharding, optimizers: Optimizers, record: RunRecord) -> None:
        self.sharding, self.optimizers, self.record = sharding, optimizers, record
        if record.fell_back_at_step is not None:
            optimizers.fall_back()
        armed = optimizers.config.optim.nan_fallback is not None and record.fell_back_at_step is None
        self.weights = {name: tensor.detach().clone() for name, tensor in sharding.owned.items() if armed}

    def remember(self) -> None:
        """Copy the current weights into the snapshot, if there still is one."""
        if self.weights:
            kept, now = ([local_of(tensor) for tensor in of.values()] for of in (self.weights, self.sharding.owned))
            torch._foreach_copy_(kept, [tensor.detach() for tensor in now])

    @torch.no_grad()
    def take_over(self) -> bool:
        """Restore the snapshot and switch to NorMuon; return False, doing nothing, if there is no snapshot."""
        if not self.weights:
            return False
        for name, tensor in self.sharding.owned.items():
            local_of(tensor).copy_(local_of(self.weights[name]))
        self.sharding.broadcast_weights()
        self.weights = {}
        self.optimizers.fall_back()
        self.record.fell_back_at_step = self.record.steps
        return True
