"""Results of a benchmark: `benchmarks/results/<name>.json`, with the machine they were measured on."""

import argparse
from pathlib import Path
from typing import Any

from ngpt.command import Parser
from ngpt.files import write_json
from ngpt.machine import core_count, processor
from ngpt.training import environment

FOLDER = Path(__file__).parent / "results"


def take_no_flags(doc: str | None) -> None:
    """Print `doc` for --help and refuse every other flag, rather than to measure for minutes."""
    Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def save(name: str, content: dict[str, Any]) -> None:
    """Write `content` with processor, cores, versions and commit."""
    machine = {"processor": processor(), "cores": core_count(), "commit": environment.commit()}
    FOLDER.mkdir(exist_ok=True)
    write_json(FOLDER / f"{name}.json", {**content, "machine": machine | environment.versions()})
    print(f"wrote {FOLDER / name}.json")
