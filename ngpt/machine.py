"""Facts about the machine that need no torch."""

import os
import platform
from pathlib import Path


def core_count() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name as Linux reports it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_nvidia_gpu() -> bool:
    """Return whether the system has an NVIDIA device."""
    return Path("/dev/nvidia0").exists()
