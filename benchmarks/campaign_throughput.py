"""How many runs and threads to use on a CPU: `python benchmarks/campaign_throughput.py`.

Measures tokens per second, summed over concurrent runs, for each number of concurrent runs, threads per run and
precision, relative to one run with one thread in float32. Then, at several presets with a run for each core, with huge
pages relative to without. The order of the arrangements is reversed in every other repetition.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import ratio
from benchmarks.saved import save, take_no_flags
from ngpt.campaign.execution.launchers import HUGE_PAGES
from ngpt.machine import core_count

STEPS = {"float32": 600, "bfloat16": 200}
"""Steps per run: several seconds of training, so that runs which start together are together nearly all the time"""

PAGED = {"tiny": 300, "rung-1": 300, "rung-2": 60}
"""Steps per run of the presets at which huge pages are tried"""


def tokens_per_second(
    jobs: int, threads: int = 1, dtype: str = "float32", preset: str = "tiny", steps: int | None = None, *,
    huge_pages: bool = True,
) -> float:  # fmt: skip
    """Measure the total throughput of `jobs` runs that start together."""
    environment = {name: value for name, value in os.environ.items() if name not in HUGE_PAGES}
    environment |= HUGE_PAGES if huge_pages else {}
    with tempfile.TemporaryDirectory() as folder:
        options = f"--preset {preset} --steps {steps or STEPS[dtype]} --dtype {dtype}"
        options += " --eval-every 1000 --eval-tokens 128 --telemetry-every 0"
        quiet = f"--threads {threads} --no-progress --no-keep-weights --out {folder}"
        command = [sys.executable, str(ROOT / "train_architectural.py"), *options.split(), *quiet.split()]
        processes = [
            subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.DEVNULL, env=environment)
            for seed in range(jobs)
        ]
        if any(process.wait() for process in processes):
            raise RuntimeError(f"a run failed: {' '.join(command)}")
        records = [json.loads(path.read_text()) for path in Path(folder).glob("*/record.json")]
    return float(sum(record["tokens_per_second"] for record in records))


def huge_pages(preset: str, steps: int, repetitions: int = 8) -> dict[str, Any]:
    """Measure a run for each core with huge pages and without, in turn; return a row of results."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for repetition in range(repetitions):
        for huge in (True, False) if repetition % 2 == 0 else (False, True):
            found[huge].append(tokens_per_second(core_count(), preset=preset, steps=steps, huge_pages=huge))
    gain = ratio(found[True], found[False])
    print(f"{preset:8} huge pages: {gain.median:.2f} [{gain.low:.2f}, {gain.high:.2f}] x without")
    return {"preset": preset, "with": found[True], "without": found[False], "ratio": dataclasses.asdict(gain)}


def main() -> None:
    """Measure every combination three times and keep the medians; then compare pages."""
    cores = core_count()
    arrangements = [
        (jobs, threads, dtype)
        for dtype, jobs, threads in itertools.product(STEPS, sorted({1, cores}), sorted({1, cores}))
        if dtype == "float32" or threads == 1
    ]
    measured: dict[tuple[int, int, str], list[float]] = {arrangement: [] for arrangement in arrangements}
    for repetition in range(3):
        for arrangement in arrangements[:: 1 if repetition % 2 == 0 else -1]:
            measured[arrangement].append(tokens_per_second(*arrangement))
    base = median(measured[1, 1, "float32"])
    rows = []
    print(f"{'runs at once':>12} {'threads per run':>15} {'precision':>10} {'throughput against 1 x 1 float32':>33}")
    for (jobs, threads, dtype), values in measured.items():
        ratio = median(values) / base
        rows.append({"jobs": jobs, "threads": threads, "dtype": dtype, "ratio": ratio, "tokens_per_second": values})
        print(f"{jobs:12} {threads:15} {dtype:>10} {ratio:33.2f}")
    paged = [huge_pages(preset, steps) for preset, steps in PAGED.items()]
    command = "python benchmarks/campaign_throughput.py"
    save("campaign_throughput", {"command": command, "median_of": 3, "rows": rows, "huge_pages": paged})


if __name__ == "__main__":
    take_no_flags(__doc__)
    main()
