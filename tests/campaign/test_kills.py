"""A campaign whose runner and workers are killed at random moments, and one of very many runs."""

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN
from mini_processes import started, workers_beside
from mini_waiting import wait_and_record

from ngpt.campaign.definition import Arm
from ngpt.campaign.definition.plan import PlannedRun
from ngpt.campaign.execution import execute as execution
from ngpt.campaign.execution import launchers
from ngpt.config import SECTIONS, RunConfig, Runtime
from ngpt.doctor import examine, runs_in
from ngpt.files import read_json
from ngpt.presets import resolve
from ngpt.training.record import read_metrics, read_record
from ngpt.training.trainer import train

RUNS = 16


@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
@pytest.mark.parametrize("deaths", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_runner_and_workers_killed_at_random_moments(tmp_path: Path, deaths: int) -> None:
    """After restart every run is recorded exactly once, with the weights of a run that nothing disturbed."""
    folder, generator, steps = tmp_path / "killed", random.Random(deaths), 15 * deaths
    flags, killed = ("--steps", str(steps), "--jobs", "2"), {"runner": 0, "worker": 0}
    folder.mkdir()
    (folder / "text.txt").write_text("".join(f"{i} bottles, {i * 7 % 13} of them green.\n" for i in range(600)))
    while sum(killed.values()) < deaths:
        process = started(folder, *flags, says="killed")
        both = generator.random() < 0.8
        while both and process.is_alive() and not workers_beside(process.pid):
            time.sleep(0.01)
        time.sleep(generator.uniform(0.02, 0.4))
        victims = workers_beside(process.pid)
        if both and victims:
            os.kill(generator.choice(victims), signal.SIGKILL)
            killed["worker"] += 1
            time.sleep(generator.uniform(0.0, 0.2))
        assert process.is_alive(), "the campaign ends before it can be killed: more steps are needed"
        os.kill(process.pid, signal.SIGKILL)
        killed["runner"] += 1
        process.join()
        if list((folder / "runs").glob("*/*")):
            for one in runs_in(folder / "runs"):
                assert not examine(one)[1]
    assert min(killed.values()) >= deaths / 5, killed
    process = started(folder, *flags, says="continued")
    process.join(240)
    assert process.exitcode == 0, (folder / "continued.err").read_text()
    found = runs_in(folder / "runs")
    assert len(found) == RUNS and all(read_record(one).status == "done" for one in found)
    assert all([row["step"] for row in read_metrics(one)] == list(range(1, steps + 1)) for one in found)
    recorded = read_json(folder / "r" / "data" / "mini.json")["runs"]
    assert sorted(row["run_id"] for row in recorded) == sorted(one.name for one in found)
    for one in found if deaths > 10 else found[::4]:
        saved = read_record(one).config
        config = RunConfig(**saved | {section: kind(**saved[section]) for section, kind in SECTIONS.items()})
        _, again = train(config, Runtime(out=tmp_path / "alone", threads=1, progress=False))
        assert again.weights_sha256 == read_record(one).weights_sha256


# --- load ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_two_hundred_runs_cost_next_to_nothing_to_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    """The runner's processor time for a run is below 1% of the shortest in use, the 5 s of `tiny`; no memory grows."""
    monkeypatch.setattr(launchers, "carry_out_run", wait_and_record)
    method = CAMPAIGN.methods[0]
    runs = [
        PlannedRun(
            stage="tuning", arm=Arm(method=method.name, lr=0.01, fields={}), seed=seed,
            config=resolve("tiny", seed=seed), run_id=f"muon-{'0' * 10}-s{seed}",
        )
        for seed in range(count)
    ]  # fmt: skip
    execution.execute(runs[:20], out=tmp_path, jobs=8, device="cpu", threads=1)  # the fork server begins
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    outcome = execution.execute(runs, out=tmp_path, jobs=8, device="cpu", threads=1)
    seconds = (time.process_time() - begin) / (count - 20)
    assert not outcome.failures and len(runs_in(tmp_path)) == count
    assert seconds < 0.01 * 5.0, f"{seconds:.3f} s a run"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 8 * 1024, "kilobytes, for all runs together"
    assert capfd.readouterr().err.count("nats per token") == count
