"""Compare the final weights of two checkouts, bit by bit: `python benchmarks/same_weights.py --against FOLDER`.

One run of every method of every published campaign, of every task of the gates, and one run on two ranks for each way
to shard, all in float32 on a CPU. A refactoring changes no bit of any of them; where it does, this names the run.
Both checkouts run on this machine, so that neither the processor nor the versions differ. Runs on texts that are not
part of the repository are left out, unless `--data NAME=PLACE` says where a text is.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ngpt.campaign.definition.plan import key_of
from ngpt.errors import InputError, exit_code_of
from ngpt.machine import core_count
from ngpt.sources import is_no_path

BUDGET_STEPS = 150
"""Steps that replace a time budget, which no two runs fill with the same number."""

GATE_STEPS = 20
"""Steps of each task of the gates, whose model is seconds a step."""

FSDP = "--optimizer muon --geodesic-muon lr-norm --normuon --momentum-transport parallel"
RANKS = {
    "two ranks, Muon": "--optimizer muon",
    "two ranks, Adam": "--optimizer adam",
    "two ranks, fsdp, Muon": "--parallel fsdp --optimizer muon",
    "two ranks, fsdp, all options": f"--parallel fsdp {FSDP}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A run to make in both checkouts; `source` names the case whose weights it starts from."""

    name: str
    flags: str
    source: str = ""
    ranks: int = 1


def without(flags: str, *names: str) -> str:
    """Return `flags` without the named flags and their values."""
    words = shlex.split(flags)
    for name in names:
        if name in words:
            at = words.index(name)
            del words[at : at + 2]
    return shlex.join(words)


def campaign_cases(data: dict) -> Iterator[Case]:
    """Yield the first comparison run of each method in a campaign's collected data, and the runs it starts from."""
    rows = {row["run_id"]: row for row in data["runs"]}
    command = {key: data["commands"][key_of(row)] for key, row in rows.items()}
    seen = set()
    for key, row in rows.items():
        if row["stage"] != "comparison" or row["method"] in seen:
            continue
        seen.add(row["method"])
        flags, source = command[key], ""
        if "--init-from" in flags:
            words = shlex.split(flags)
            source = Path(words[words.index("--init-from") + 1]).name
            yield Case(source, command[source])
        if data["training"].get("budget_seconds") is not None:
            flags = without(flags, "--time-budget-seconds", "--clock") + f" --steps {BUDGET_STEPS}"
        yield Case(f"{data['campaign']}: {row['method']}", without(flags, "--init-from"), source)


def gate_cases(data: dict) -> Iterator[Case]:
    """Yield one short run of each task and optimizer of the gates."""
    seen = set()
    for row in data["runs"]:
        task = row["task"], row["optimizer"], row["ns_steps"]
        if task not in seen:
            seen.add(task)
            flags = without(data["commands"][row["run_id"]], "--steps", "--eval-every")
            name = f"{data['campaign']}: {row['task']}, {row['optimizer']}, {row['ns_steps']} iterations"
            yield Case(name, f"{flags} --steps {GATE_STEPS}")


def placed(flags: str, places: Mapping[str, str]) -> str | None:
    """Return `flags` with the place of the data instead of their name; None if it is not known."""
    words = shlex.split(flags)
    if "--data" in words:
        at = words.index("--data") + 1
        if words[at] in places:
            words[at] = places[words[at]]
        elif not is_no_path(words[at]):
            return None
    return shlex.join(words)


def cases(steps: int | None) -> list[Case]:
    """Return all runs, those that others start from first; steps: of each run instead of its own number."""
    found: dict[str, Case] = {}
    for path in sorted((ROOT / "reports" / "data").glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        for case in gate_cases(data) if "ns_steps_wanted" in data else campaign_cases(data):
            found.setdefault(case.name, case)
    found |= {name: Case(name, f"{flags} --steps 40", ranks=2) for name, flags in RANKS.items()}
    if steps is not None:
        found = {
            name: Case(name, f"{without(case.flags, '--steps')} --steps {steps}", case.source, case.ranks)
            for name, case in found.items()
        }
    return sorted(found.values(), key=lambda case: bool(case.source))


def final_digest(tree: Path, case: Case, out: Path, sources: dict[str, Path]) -> str:
    """Carry out `case` with the code in `tree` and return the digest of its final weights."""
    fixed = "--device cpu --threads 1 --no-progress --dtype float32"
    if case.source:
        fixed += f" --init-from {sources[case.source]}"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={case.ranks}"]
    command = [sys.executable, *(launcher if case.ranks > 1 else []), str(tree / "train_architectural.py")]
    command += [*shlex.split(case.flags), *shlex.split(fixed), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tree)
    if done.returncode:
        raise InputError(f"{tree.name}: {case.name}: {done.stderr.strip().splitlines()[-1]}")
    (path,) = out.glob("*/record.json")
    sources[case.name] = path.parent
    return str(json.loads(path.read_text())["weights_sha256"]["final"])


def main(arguments: list[str]) -> int:
    """Run everything in both checkouts and print a line a run. Exit code 1 if any weights differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", type=Path, required=True, help="the other checkout")
    parser.add_argument("--only", default="", help="runs whose name contains this text")
    parser.add_argument("--steps", type=int, help="steps of each run, for a quick look; its own number if not given")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PLACE", help="where a text is")
    options = parser.parse_args(arguments)
    places = dict(one.partition("=")[::2] for one in options.data)
    places = {name: str(Path(place).resolve()) for name, place in places.items()}
    trees = (options.against.resolve(), ROOT)
    found = {case: placed(case.flags, places) for case in cases(options.steps)}
    left_out = [case.name for case, flags in found.items() if flags is None and options.only in case.name]
    if left_out:
        print(f"left out, as their text is not here: {', '.join(left_out)}")
    every = [dataclasses.replace(case, flags=flags) for case, flags in found.items() if flags is not None]
    needed = {case.source for case in every if options.only in case.name}
    chosen = [case for case in every if options.only in case.name or case.name in needed]
    sources: tuple[dict[str, Path], dict[str, Path]] = ({}, {})
    different = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(core_count()) as pool:
        for stage in (False, True):
            jobs = [case for case in chosen if bool(case.source) == stage]
            pairs = [
                [
                    pool.submit(final_digest, tree, case, Path(folder) / str(side) / str(number), sources[side])
                    for side, tree in enumerate(trees)
                ]
                for number, case in enumerate(jobs, len(sources[0]))
            ]
            for case, pair in zip(jobs, pairs, strict=True):
                one, other = (future.result() for future in pair)
                different += one != other
                print(f"{'same bits' if one == other else 'DIFFERENT'}  {one[:16]}  {case.name}", flush=True)
    print(f"{len(chosen) - different} of {len(chosen)} runs have the same final weights to the bit")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
