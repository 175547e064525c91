"""What can be known of the machine without torch."""

import os
from pathlib import Path


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_nvidia_gpu() -> bool:
    """Whether the system shows an NVIDIA device."""
    return Path("/dev/nvidia0").exists()
