"""The processes (ranks) of one run as torchrun starts them, and the collectives they use.

Objects are never sent: texts travel as bytes, everything else as tensors.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ngpt.errors import InputError, first_line, require


class RankLostError(InputError):
    """Another process of the run has ended or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run. Every rank calls the collectives in the same order; a single process sends nothing."""

    index: int = 0
    """this process's rank, from 0 to count - 1"""
    count: int = 1
    local_index: int = 0
    """this process's rank on its machine: the number of its GPU"""
    local_count: int = 1
    """ranks on this machine"""

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0, which writes the run folder and prints."""
        return self.index == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum `values` over the ranks, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, values: list[float]) -> list[float]:
        """Return the maximum over the ranks of each value."""
        found = torch.tensor(values, dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(value) for value in found]

    def broadcast_value(self, value: float) -> float:
        """Return rank 0's value."""
        return self.all_reduce_max([value if self.is_first else -float("inf")])[0]

    def any_rank(self, condition: bool) -> bool:
        """Return whether the condition holds on any rank."""
        return condition if self.count == 1 else self.all_reduce_max([float(condition)])[0] > 0

    def broadcast_text(self, text: str = "") -> str:
        """Return rank 0's text."""
        if self.count == 1:
            return text
        length = int(self.broadcast_value(len(text.encode())))
        content = _bytes_tensor(text) if self.is_first else torch.zeros(length, dtype=torch.uint8)
        dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def require_same(self, text: str, message: str) -> None:
        """Raise InputError with `message` on every rank unless all have the same text."""
        require(not self.any_rank(self.broadcast_text(text) != text), f"rank {self.index}: {message}")

    def gather(self, tensors: Mapping[str, Tensor], cuts: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the tensors of all ranks on rank 0, on the CPU, and nothing on the other ranks.

        A name that several ranks have is taken from the lowest. A name in `cuts` is one tensor whose parts are
        concatenated along that dimension. Tensors are sent one at a time, so only rank 0 needs memory for all of them.
        """
        if self.count == 1:
            return dict(tensors)
        if not self.is_first:
            types = {name: (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in tensors.items()}
            header = _bytes_tensor(json.dumps(types))
            dist.send(torch.tensor([len(header)]), 0)
            for tensor in (header, *tensors.values()):
                dist.send(tensor.detach().cpu().contiguous(), 0)
            return {}
        found = {name: [tensor.detach().cpu()] for name, tensor in tensors.items()}
        for rank in range(1, self.count):
            length = torch.zeros(1, dtype=torch.int64)
            dist.recv(length, rank)
            header = torch.zeros(int(length), dtype=torch.uint8)
            dist.recv(header, rank)
            for name, (dtype, shape) in json.loads(bytes(header.tolist())).items():
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                dist.recv(tensor, rank)
                if name in cuts or name not in found:
                    found.setdefault(name, []).append(tensor)
        return {name: torch.cat(parts, cuts[name]) if name in cuts else parts[0] for name, parts in found.items()}

    @contextmanager
    def lost_ranks_as_errors(self) -> Iterator[None]:
        """Turn a failed send or receive inside the block into a RankLostError of one line."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            cause = re.sub(r"\[/\S+\] *", "", first_line(error)).partition(". ")[0]  # without source files and advice
            raise RankLostError(
                f"rank {self.index}: another rank has ended or cannot be reached; --resume continues the run, with any "
                f"number of ranks: {cause}"
            ) from error


SINGLE_PROCESS = Ranks()


def _bytes_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the process group that torchrun's environment describes; without one, or alone in it, do nothing.

    CPU tensors go through gloo and CUDA tensors through NCCL.
    """
    count = _number("WORLD_SIZE", "1")
    if count == 1:
        yield SINGLE_PROCESS
        return
    ranks = Ranks(
        index=_number("RANK"), count=count, local_index=_number("LOCAL_RANK", "0"),
        local_count=_number("LOCAL_WORLD_SIZE", f"{count}"),
    )  # fmt: skip
    require(ranks.index < count, f"RANK is {ranks.index}, which is none of the {count} ranks of WORLD_SIZE")
    _variable("MASTER_ADDR")
    _number("MASTER_PORT")
    with ranks.lost_ranks_as_errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # waits for all ranks; `dist.barrier` would initialize a GPU before this process has chosen its own
        ranks.all_reduce_max([0.0])  # all are connected: one that ends early no longer keeps the others from starting
        yield ranks
        ranks.all_reduce_max([0.0])
    dist.destroy_process_group()


def _number(name: str, default: str | None = None) -> int:
    text = _variable(name, default)
    require(text.isdecimal(), f"{name} is {text!r}, not a whole number; torchrun sets it, and unset it is a single run")
    return int(text)


def _variable(name: str, default: str | None = None) -> str:
    """Return a variable of torchrun's environment. Raises InputError if it is neither set nor has a default."""
    text = os.environ.get(name, default)
    if text is None:
        raise InputError(f"WORLD_SIZE is set but {name} is not: start several ranks with torchrun")
    return text
