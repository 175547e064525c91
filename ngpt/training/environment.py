"""The machine under a run: device, threads, determinism, versions, and the signals that ask a run to stop."""

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy
import torch

from ngpt.errors import InputError, first_line
from ngpt.machine import core_count, processor

NO_MEMORY = ("DefaultCPUAllocator: ", "Storage size calculation overflowed", "numel: integer multiplication overflow")
"""In the words of PyTorch, whose error is a plain RuntimeError on a CPU"""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)"""


def choose_device(name: str, index: int = 0) -> torch.device:
    """The device that `--device` names, of several GPUs the `index`-th. Raises InputError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device on this machine")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: {torch.cuda.device_count()} GPUs for more ranks on this machine")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def prepare(device: torch.device, threads: int) -> None:
    """Fix what makes two runs differ: the number of threads, and algorithms that add in no fixed order."""
    torch.set_num_threads(threads)
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        # a CUDA graph is not captured on the default stream, nor from gradients that first came to be there
        torch.cuda.set_stream(torch.cuda.Stream(device))
        # of the first step, which is not captured
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: by default large tensors go back to the kernel each time.

    A validation of `tiny`, with tensors of megabytes, then takes two thirds of the time. Elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        library.mallopt(parameter, 2**30)


def device_name(device: torch.device) -> str:
    """For the record: the GPU's name, or the processor's with what PyTorch uses of it and the number of cores.

    Processors of different instruction sets add in different orders.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()}, {core_count()} cores)"


def versions() -> dict[str, str]:
    """Versions that the numbers of a run depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def commit() -> str | None:
    """The git commit of this code, with + behind it if tracked files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True)
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "ngpt"], cwd=root, capture_output=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return head.stdout.strip() + ("+" if dirty.returncode else "") if head.returncode == 0 else None


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: on the GPU if the run is there, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def naming_lack_of_memory(device: torch.device) -> Iterator[None]:
    """Inside, an allocation that fails becomes an InputError of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError, of a GPU, is a RuntimeError
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(x in str(error) for x in NO_MEMORY)
        if not lacking:
            raise
        where = "the GPU" if device.type == "cuda" else "this machine"
        raise InputError(f"not enough memory on {where} for this model and batch: {first_line(error)}") from error


class StopRequest:
    """Set by the first SIGINT or SIGTERM; the run then ends after the step it is in. A second one stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM inside; outside the main thread, where Python has no signals, do nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, request._receive) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
