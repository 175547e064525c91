"""Writing a benchmark's results: `benchmarks/results/<name>.json`, with the machine they were measured on."""

import platform
from pathlib import Path
from typing import Any

from ngpt.files import write_json
from ngpt.training import environment

FOLDER = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name as Linux gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def save(name: str, content: dict[str, Any]) -> None:
    """Keep `content` with processor, cores, versions and commit."""
    machine = {"processor": processor(), "cores": environment.core_count(), "commit": environment.commit()}
    FOLDER.mkdir(exist_ok=True)
    write_json(FOLDER / f"{name}.json", {**content, "machine": machine | environment.versions()})
    print(f"wrote {FOLDER / name}.json")
