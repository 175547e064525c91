"""A benchmark's results: `benchmarks/results/<name>.json`, with the machine they were measured on; README's tables."""

from pathlib import Path
from typing import Any

from ngpt.files import read_json, write_json
from ngpt.machine import core_count, processor
from ngpt.training import environment

FOLDER = Path(__file__).parent / "results"


def save(name: str, content: dict[str, Any]) -> None:
    """Keep `content` with processor, cores, versions and commit."""
    machine = {"processor": processor(), "cores": core_count(), "commit": environment.commit()}
    FOLDER.mkdir(exist_ok=True)
    write_json(FOLDER / f"{name}.json", {**content, "machine": machine | environment.versions()})
    print(f"wrote {FOLDER / name}.json")


def readme_tables() -> str:
    """The tables of README's section on speed, from the files of results."""
    throughput, overhead = (read_json(FOLDER / f"{name}.json") for name in ("campaign_throughput", "trainer_overhead"))
    machine = throughput["machine"]
    lines = [
        f"Measured on {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"by `{throughput['command']}` and `{overhead['command']}`, medians of {throughput['median_of']}:",
        "",
        "| runs at once | threads a run | precision | throughput against one run, one thread, float32 |",
        "|---|---|---|---|",
    ]
    for row in throughput["rows"]:
        lines.append(f"| {row['jobs']} | {row['threads']} | {row['dtype']} | {row['ratio']:.2f} |")
    lines += [
        "",
        f"| `tiny` run | training time against {next(iter(overhead['rows']))} | optimizer step and projection "
        "| trainer's overhead | validation's share | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in overhead["rows"].items():
        shares = " | ".join(f"{row[key]:.1%}" for key in ("step_share", "overhead_share", "validation_share"))
        lines.append(f"| {name} | {row['time_ratio']:.2f} | {shares} | {row['peak_memory_mb']:.0f} MB |")
    return "\n".join(lines) + "\n"
