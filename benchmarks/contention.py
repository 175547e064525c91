"""A run beside other work: `python benchmarks/contention.py`.

Times the steps of a small and a larger model while none, one or two other processes keep a core busy each: as runs are
by default, with a thread per core whose waiting threads sleep, and with a thread per core whose waiting threads spin as
long as GCC's OpenMP lets them unless it is told otherwise. All arrangements take turns, three times.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.saved import save, take_no_flags
from ngpt.errors import exit_code_of
from ngpt.files import read_json
from ngpt.machine import core_count

REPETITIONS = 3
COMPETITORS = (0, 1, 2)
MODELS = {
    "`tiny`": "--steps 40",
    "256 wide, 2,048 tokens a step": "--steps 6 --n-embd 256 --seq-len 256 --batch-size 8",
}
ARRANGEMENTS = {
    "default": ("", {}),
    "a thread per core, asleep while waiting": (f"--threads {core_count()}", {"OMP_WAIT_POLICY": "PASSIVE"}),
    "a thread per core, spinning while waiting": (f"--threads {core_count()}", {"GOMP_SPINCOUNT": "300000"}),
}
"""Flags and environment of each; the number is that of GCC's OpenMP without OMP_WAIT_POLICY, which the commands set"""


@contextlib.contextmanager
def competitors(count: int) -> Iterator[None]:
    """Keep `count` cores busy inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_per_step(model: str, arrangement: str) -> float:
    """Return the wall-clock time of a training step of one run, without its start and validation."""
    flags, variables = ARRANGEMENTS[arrangement]
    with tempfile.TemporaryDirectory() as folder:
        fixed = f"--eval-every 1000 --eval-tokens 64 --telemetry-every 0 --device cpu --no-progress --out {folder}"
        words = f"{MODELS[model]} {flags} {fixed}".split()
        command = [sys.executable, str(ROOT / "train_architectural.py"), *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        subprocess.run(command, env=environment | variables, check=True, capture_output=True)
        (path,) = Path(folder).glob("*/record.json")
        record = read_json(path)
    return float(record["train_seconds"] / record["timed_steps"])


def main() -> int:
    """Measure every combination three times and save the medians."""
    cases = list(product(MODELS, ARRANGEMENTS, COMPETITORS))
    measured: dict[tuple[str, str, int], list[float]] = {case: [] for case in cases}
    for repetition in range(REPETITIONS):
        for model, arrangement, count in cases[:: 1 if repetition % 2 == 0 else -1]:
            with competitors(count):
                measured[model, arrangement, count].append(seconds_per_step(model, arrangement))
            print(f"{model}, {arrangement}, {count} beside: {measured[model, arrangement, count][-1]:.4f} s a step")
    rows = []
    for model, arrangement in product(MODELS, ARRANGEMENTS):
        base = median(measured[model, "default", 0])
        ratios = [median(measured[model, arrangement, count]) / base for count in COMPETITORS]
        rows.append({"model": model, "arrangement": arrangement, "ratios": ratios})
        print(f"{model:32} {arrangement:44} {'  '.join(f'{ratio:6.2f}' for ratio in ratios)}")
    content = {"command": "python benchmarks/contention.py", "median_of": REPETITIONS, "competitors": COMPETITORS}
    save("contention", content | {"rows": rows})
    return 0


if __name__ == "__main__":
    take_no_flags(__doc__)
    sys.exit(exit_code_of(main))
