"""The machine of a run: device, threads, determinism, versions, and the signals that ask a run to stop."""

import ctypes
import hashlib
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy
import torch

from ngpt.config import RunConfig
from ngpt.errors import EXIT_INTERRUPTED, InputError, first_line, require
from ngpt.machine import core_count, processor

NO_MEMORY = ("DefaultCPUAllocator: ", "Storage size calculation overflowed", "numel: integer multiplication overflow")
"""Parts of PyTorch's messages on a CPU, where the error is a plain RuntimeError"""


WORTH_A_THREAD = 2**17
"""Fewest entries of the residual stream, tokens of a step times width, for which a second thread pays on a CPU"""

GRACE_SECONDS = 8.0
"""Seconds that a step may go on after a signal asked the run to stop"""

NO_COMPILER = ("InvalidCxxCompiler", "Failed to find C compiler")
"""Parts of the messages of PyTorch's and Triton's compilers"""

COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable with the folder in which torch.compile keeps its code"""

FAILED_COMPILER = "C++ compile error"
"""Part of PyTorch's message where the compiler was found and failed"""


def choose_device(name: str, index: int = 0) -> torch.device:
    """Return the device that `--device` names; with several GPUs the `index`-th. Raises InputError if there is none."""
    known = name != "cuda" or torch.cuda.is_available()
    require(known, "--device cuda: PyTorch finds no CUDA device on this machine")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    require(index < count, f"--device {name}: more ranks on this machine than its {count} GPUs")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def default_threads(config: RunConfig, local_ranks: int) -> int:
    """Return one thread for a small model, else one for each core that a rank has, at most OMP_NUM_THREADS."""
    cores, limit = core_count() // local_ranks, os.environ.get("OMP_NUM_THREADS", "")
    if local_ranks == 1 and limit.isdecimal():  # for several ranks torchrun sets it to 1, which says nothing
        cores = min(cores, int(limit))
    small = config.train.batch_size * config.model.seq_len * config.model.n_embd < WORTH_A_THREAD
    return 1 if small else max(1, cores)


def prepare(device: torch.device, threads: int) -> None:
    """Make runs reproducible: fix the number of threads, and use algorithms with a fixed order of summation only."""
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":  # keep what a step frees: a validation of `tiny` takes two thirds of the time
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3)
            ctypes.CDLL(None).mallopt(parameter, 2**30)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        # CUDA graphs cannot be captured on the default stream, nor with gradients that were allocated on it
        torch.cuda.set_stream(torch.cuda.Stream(device))
        # from the first step, which is not captured
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with its cores and instruction set, which decides the order of sums."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()}, {core_count()} cores)"


def versions() -> dict[str, str]:
    """Return the versions of what a run's numbers depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """Return the git commit of the checkout `root`, followed by + if files of the package differ from it.

    None outside a checkout. Variables such as GIT_DIR, which would name another repository, have no effect.
    """
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=root, env=variables, capture_output=True, text=True)

    head, same = git("rev-parse", "--short=12", "HEAD"), git("diff", "--quiet", "HEAD", "--", "ngpt")
    return head.stdout.strip() + ("+" if same.returncode else "") if head.returncode == 0 else None


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of the GPU if the run is there, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def out_of_memory_as_error(device: torch.device) -> Iterator[None]:
    """Turn a failed allocation inside the block into an InputError of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (known or any(text in str(error) for text in NO_MEMORY)):
            raise
        where = "the GPU" if device.type == "cuda" else "this machine"
        raise InputError(f"not enough memory on {where} for this model and batch: {first_line(error)}") from error


def keep_compiled_code_apart() -> None:
    """Have torch.compile keep its code in a folder for this kind of processor, inside the one it would use.

    PyTorch 2.13 takes code that it finds there for its own, whatever the processor: code for AVX512 then computes
    nonsense with AVX2.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    kind = hashlib.sha256(f"{processor()} {capability}".encode()).hexdigest()[:8]
    usual = Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    folder = Path(os.environ.get(COMPILED_CODE) or usual)
    if folder.name != kind:
        os.environ[COMPILED_CODE] = str(folder / kind)


@contextmanager
def missing_compiler_as_error() -> Iterator[None]:
    """Turn what torch.compile raises without a compiler, or with one that fails, into an InputError of one line."""
    try:
        yield
    except RuntimeError as error:
        need = "--compile needs a C++ compiler such as g++"
        if any(text in str(error) for text in NO_COMPILER):
            raise InputError(f"{need}; PyTorch finds none on this machine, and --no-compile does without") from error
        if FAILED_COMPILER in str(error):
            said = next((line for line in str(error).splitlines() if "error:" in line), "it says nothing of why")
            raise InputError(f"{need} and Python's headers; the one on this machine fails: {said.strip()}") from error
        raise


class StopRequest:
    """A request by signal that a run stop; false until there is one."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end, self.numbers = end, list[int]()
        self.heeded = threading.Event()
        """set once the run does what it is asked"""

    def __bool__(self) -> bool:
        if self.numbers:
            self.heeded.set()
        return bool(self.numbers)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note the first, and raise KeyboardInterrupt on any other."""
        if self.numbers:
            raise KeyboardInterrupt
        self.numbers.append(number)

    def watch(self, signals: socket.socket, asked: Collection[int]) -> None:
        """End the process if it takes too long to heed a signal among `asked`, of which `signals` gives the number.

        For a thread of its own: no handler of Python runs while the main thread is inside one long operation.
        """
        if not _next_of(signals, asked):  # closed, as none came
            return
        signals.settimeout(GRACE_SECONDS)
        try:
            _next_of(signals, asked)
            patience = 1.0
        except TimeoutError:
            patience = 0.0
        if not self.heeded.wait(patience):
            self.end()
            os._exit(EXIT_INTERRUPTED)


def _next_of(signals: socket.socket, asked: Collection[int]) -> bool:
    """Wait for a signal among `asked`, passing over those that other handlers get; return whether one came."""
    while received := signals.recv(1):
        if received[0] in asked:
            return True
    return False


@contextmanager
def stop_on_signals(end: Callable[[], None]) -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP inside the block, and yield whether one has come.

    The first one asks the run to end after its current step, a second one ends it at once. If the step does not end
    within GRACE_SECONDS, `end` is called and the process exits. Outside the main thread, where Python handles no
    signals, does nothing.
    """
    stop = StopRequest(end)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # else, as under nohup, the end of a terminal is ignored
        asked.append(signal.SIGHUP)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=stop.watch, args=(ours, asked), daemon=True)
    watcher.start()
    earlier = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, stop.receive) for number in asked}
    try:
        yield stop
    finally:
        stop.heeded.set()
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier)
        theirs.close()
        watcher.join()
        ours.close()
