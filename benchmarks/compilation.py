"""What compilation costs a run before its second step: `python benchmarks/compilation.py`.

A run of each preset begins eagerly; compiled where nothing has been compiled before; compiled in a new process, with
what PyTorch has kept on disk; and as a run of a campaign, whose fork server has compiled. All take turns, three times.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.saved import save, take_no_flags
from ngpt.campaign.definition.plan import PlannedRun
from ngpt.campaign.execution.execute import execute
from ngpt.errors import exit_code_of
from ngpt.presets import resolve
from ngpt.training.environment import COMPILED_CODE
from ngpt.training.record import read_metrics

PRESETS = ("rung-1", "rung-2")
REPETITIONS = 3
SHORT = {"steps": 30, "eval_every": 1000, "eval_tokens": 128, "telemetry_every": 0}
EAGER, COLD, WARM, CAMPAIGN = "eager", "compiled, first on a machine", "compiled", "compiled, in a campaign"


def times_of(folder: Path) -> tuple[float, float]:
    """Return the seconds of a run's first step, and the median of the others."""
    first, *others = (row["seconds"] for row in read_metrics(folder))
    return first, median(others)


def alone(preset: str, cache: Path, *, compiled: bool) -> tuple[float, float]:
    """Make one run in a process of its own; return its times."""
    with tempfile.TemporaryDirectory() as out:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
        fixed = f"--preset {preset} --device cpu --threads 1 --no-progress --no-keep-weights --out {out}".split()
        command = [sys.executable, str(ROOT / "train_architectural.py"), *fixed, *flags]
        variables = {**os.environ, COMPILED_CODE: str(cache)}
        command += [] if compiled else ["--no-compile"]
        subprocess.run(command, env=variables, check=True, capture_output=True)
        (record,) = Path(out).glob("*/record.json")
        return times_of(record.parent)


def in_a_campaign(repetition: int) -> dict[str, tuple[float, float]]:
    """Make one run of each preset as a campaign does; return their times. The server begins with the first call."""
    configs = {preset: resolve(preset, seed=repetition, **SHORT) for preset in PRESETS}
    runs = [PlannedRun.of("comparison", preset, repetition, config) for preset, config in configs.items()]
    with tempfile.TemporaryDirectory() as out:
        ended = execute(runs, out=Path(out), jobs=1, device="cpu", threads=1)
        if ended.failures:
            raise RuntimeError(str(ended.failures))
        return {run.config.preset: times_of(Path(out) / run.run_id) for run in runs}


def main() -> int:
    """Measure everything three times and save the medians."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as kept:
        os.environ[COMPILED_CODE] = f"{kept}/campaign"  # of the fork server
        for repetition in range(REPETITIONS):
            for preset in PRESETS:
                cache = Path(kept) / f"{preset}-{repetition}"
                for start in (EAGER, COLD, WARM):
                    times = alone(preset, cache, compiled=start != EAGER)
                    taken.setdefault((preset, start), []).append(times)
            for preset, times in in_a_campaign(repetition).items():
                taken.setdefault((preset, CAMPAIGN), []).append(times)
    rows = []
    for preset in PRESETS:
        found = {
            start: tuple(median(column) for column in zip(*taken[preset, start], strict=True))
            for start in (EAGER, COLD, WARM, CAMPAIGN)
        }
        eager_first, eager_step = found[EAGER]
        for start, (first, step) in found.items():
            row = {"preset": preset, "start": start, "steps_of_a_run": resolve(preset).train.steps}
            row |= {"first_step": first / eager_step, "step": step / eager_step}
            row["repaid_after"] = None if start == EAGER else (first - eager_first) / (eager_step - step)
            rows.append(row)
            print(f"{preset} {start:30} first step {first:6.2f} s, {row['first_step']:7.1f} eager steps; ", end="")
            print(f"a step {row['step']:.2f}; repaid after {row['repaid_after'] or 0:.0f} steps")
    save("compilation", {"command": "python benchmarks/compilation.py", "median_of": REPETITIONS, "rows": rows})
    return 0


if __name__ == "__main__":
    take_no_flags(__doc__)
    sys.exit(exit_code_of(main))
