"""Facts about the machine that need no torch."""

import functools
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
DEVICES = Path("/dev")

GPU_NODES = ("nvidia*", "dxg", "nvhost*", "nvmap", "nvgpu*", "kfd")
"""device files of drivers: NVIDIA's on servers and workstations, in Windows' Linux and on Tegra, and AMD's"""


def core_count() -> int:
    """Return the number of CPU cores this process may use, by its affinity and the quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_quota(Path("/proc/self/cgroup")))))


def _cpu_quota(membership: Path) -> float:
    """Return the CPU time per second that control groups allow (versions 1 and 2); infinity without a limit.

    membership: the file in which Linux lists the groups of a process. A container may see its own group as the root.
    """
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    quotas = [math.inf]
    for _, controllers, group in (line.split(":", 2) for line in lines):
        root = CGROUPS / "cpu" if controllers else CGROUPS
        own = root / group.lstrip("/")
        if not controllers or "cpu" in controllers.split(","):
            quotas += [_quota_of(folder) for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return min(quotas)


def _quota_of(folder: Path) -> float:
    files = (folder / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    words = " ".join(file.read_text(encoding="utf-8") for file in files if file.is_file()).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else math.inf  # else "max" or -1


def processor() -> str:
    """Return the processor's name as Linux reports it, with its generation, or else its architecture.

    A name alone can be that of several generations ("AMD EPYC"), which differ in speed.
    """
    first = _first_core()
    if "model name" not in first:
        return platform.machine()
    generation = [f"{name.removeprefix('cpu ')} {first[name]}" for name in ("cpu family", "model") if name in first]
    return " ".join([first["model name"], *generation])


def is_intel() -> bool:
    """Return whether Linux reports a processor of Intel's."""
    return _first_core().get("vendor_id") == "GenuineIntel"


def _first_core() -> dict[str, str]:
    """Return what Linux reports of the first core, by name; nothing on other systems."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    first: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        first.setdefault(name.strip(), value.strip())
    return first


def wait_without_spinning() -> None:
    """Let threads that wait for each other sleep, unless OMP_WAIT_POLICY is set; call it before importing torch.

    By default they spin. On cores that other processes use too, a thread then spins away the time that the thread it
    waits for would need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@functools.cache
def has_gpu() -> bool:
    """Return whether PyTorch would use a GPU.

    PyTorch itself is asked, in a process of its own since it takes seconds to import, unless there is no device file.
    """
    if not any(next(DEVICES.glob(pattern), None) for pattern in GPU_NODES):
        return False
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], capture_output=True).returncode == 0
