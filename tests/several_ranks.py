"""A function on several ranks: processes of one gloo group, forked from one that has imported what they need."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


def on_ranks(function: Callable[..., None], count: int, folder: Path, *arguments: object) -> None:
    """Call function(*arguments) on `count` ranks; fails with the tracebacks of those that fail."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ngpt.training.trainer", "torch._dynamo", "torch.distributed.fsdp", "pytest"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(function, rank, count, port, folder, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    errors = "\n".join(path.read_text() for path in sorted(folder.glob("rank*")))
    assert [process.exitcode for process in processes] == [0] * count, errors


def _rank(
    function: Callable[..., None], rank: int, count: int, port: int, folder: Path, arguments: tuple[object, ...]
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(count)}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo")
        function(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"rank{rank}").write_text(traceback.format_exc())
        raise
