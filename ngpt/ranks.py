"""The processes of one run, as torchrun starts them: which of them this is, and what they tell each other.

No objects travel: texts go as bytes, everything else as tensors.
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

from ngpt.errors import InputError, first_line


class RankLostError(InputError):
    """Another process of the run has ended, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; a run of one process is `ALONE`, and then nothing is sent.

    Every method that says or adds something is called by all ranks, in the same order.
    """

    index: int = 0
    """of this process, from 0 to count - 1"""
    count: int = 1
    local_index: int = 0
    """of this process among those on its machine: the number of its GPU"""
    local_count: int = 1
    """processes on this machine"""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the run's folder and speaks for the run."""
        return self.index == 0

    def add(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: list[float]) -> list[float]:
        """The largest of each value over the ranks."""
        found = torch.tensor(values, dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(value) for value in found]

    def of_first(self, value: float) -> float:
        """The first rank's value."""
        return self.largest([value if self.first else -float("inf")])[0]

    def any(self, condition: bool) -> bool:
        """Whether the condition holds on any rank."""
        return condition if self.count == 1 else self.largest([float(condition)])[0] > 0

    def wait(self) -> None:
        """Until all ranks are here. Not by `dist.barrier`, which would take a GPU that is not chosen yet."""
        self.largest([0.0])

    def tell(self, text: str = "") -> str:
        """The first rank's text."""
        if self.count == 1:
            return text
        length = int(self.of_first(len(text.encode())))
        content = torch.zeros(length, dtype=torch.uint8)
        if self.first:
            content.copy_(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if length else content)
        dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def require_same(self, text: str, message: str) -> None:
        """Raise InputError with `message`, on all ranks, unless all say the same text."""
        if self.any(self.tell(text) != text):
            raise InputError(f"rank {self.index}: {message}")

    def gather(self, tensors: Mapping[str, Tensor], cuts: Mapping[str, int]) -> dict[str, Tensor]:
        """On the first rank the tensors of all ranks, on the CPU, each name from the lowest rank that has it.

        Those named in `cuts` are parts of one tensor, cut along that dimension. Elsewhere nothing. One tensor at a time
        is on its way, so that no rank but the first needs memory for it.
        """
        if self.count == 1:
            return dict(tensors)
        if not self.first:
            kinds = {name: (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in tensors.items()}
            header = torch.frombuffer(bytearray(json.dumps(kinds).encode()), dtype=torch.uint8)
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
    def naming_lost_ranks(self) -> Iterator[None]:
        """Inside, a message that cannot be sent or does not come becomes a RankLostError of one line."""
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


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside, the ranks that torchrun's environment names; without it, or with one process, `ALONE`.

    CPU tensors go through gloo; where there is CUDA, its tensors go through NCCL.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    ranks = Ranks(
        index=int(os.environ["RANK"]), count=count, local_index=int(os.environ.get("LOCAL_RANK", "0")),
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", count)),
    )  # fmt: skip
    with ranks.naming_lost_ranks():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        ranks.wait()  # all have found each other: who ends from now on does not keep others from beginning
        yield ranks
        ranks.wait()
    dist.destroy_process_group()
