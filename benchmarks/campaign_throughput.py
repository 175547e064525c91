"""How many runs and threads to use on a CPU: `python benchmarks/campaign_throughput.py`.

Measures tokens per second, summed over concurrent runs, for each number of concurrent runs, threads per run and
precision, relative to one run with one thread in float32. The order of the arrangements is reversed in every other
repetition.
"""

import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.saved import save, take_no_flags
from ngpt.machine import core_count

STEPS = {"float32": 600, "bfloat16": 200}
"""Steps per run: several seconds of training, so that runs which start together are together nearly all the time"""


def tokens_per_second(jobs: int, threads: int, dtype: str) -> float:
    """Measure the total throughput of `jobs` runs that start together."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"--steps {STEPS[dtype]} --eval-every 1000 --eval-tokens 64 --telemetry-every 0 --dtype {dtype}"
        quiet = f"--threads {threads} --no-progress --no-keep-weights --out {folder}"
        command = [sys.executable, str(ROOT / "train_architectural.py"), *options.split(), *quiet.split()]
        processes = [
            subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.DEVNULL) for seed in range(jobs)
        ]
        if any(process.wait() for process in processes):
            raise RuntimeError(f"a run failed: {' '.join(command)}")
        records = [json.loads(path.read_text()) for path in Path(folder).glob("*/record.json")]
    return float(sum(record["tokens_per_second"] for record in records))


def main() -> None:
    """Measure every combination three times and keep the medians."""
    cores = core_count()
    arrangements = [
        (jobs, threads, dtype)
        for dtype, jobs, threads in product(STEPS, sorted({1, cores}), sorted({1, cores}))
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
    save("campaign_throughput", {"command": "python benchmarks/campaign_throughput.py", "median_of": 3, "rows": rows})


if __name__ == "__main__":
    take_no_flags(__doc__)
    main()
