"""Campaigns on Ray: the same files as on this machine, whatever becomes of a node. Whole ones in the slow mode."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import mini_runs
from mini_campaign import CAMPAIGN, carry_out, heed_interrupts

from ngpt.campaign.execution.launchers import RayLauncher
from ngpt.doctor import examine, runs_in
from ngpt.errors import exit_code_of
from ngpt.files import read_json
from ngpt.training.record import CHECKPOINT, read_metrics, read_record

SCRIPT = Path(__file__).with_name("mini.py")
STEPS = 400


def flags(folder: Path, *more: str) -> list[str]:
    places = ["--data", str(folder / "text.txt"), "--out", str(folder / "runs"), "--reports", str(folder / "r")]
    return [*places, "--steps", str(STEPS), *more]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--launcher", "ray"), "error: --launcher ray needs Ray: pip install -e '.[ray]'"),
        (("--ray-address", "here:1"), "error: --ray-address has no effect without --launcher ray"),
        (("--launcher", "ray", "--reproduce"), "error: --reproduce compares runs of this machine"),
    ],
)
def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "text.txt").write_text("some text of a test " * 999)
    assert exit_code_of(lambda: carry_out(CAMPAIGN, flags(tmp_path, *more))) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign as this machine's processes carry it out."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("local")
    (folder / "text.txt").write_text("".join(f"{i} bottles, {i * 7 % 13} of them green.\n" for i in range(600)))
    subprocess.run([sys.executable, str(SCRIPT), *flags(folder)], check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes on this machine, of one processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # or other work on this machine leaves the runs no time
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def runner(local: Path, folder: Path, cluster: Any, *more: str) -> "subprocess.Popen[str]":
    (folder / "text.txt").write_text((local / "text.txt").read_text())
    there = flags(folder, "--launcher", "ray", "--ray-address", cluster.address, *more)
    command = [sys.executable, str(SCRIPT), *there]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )


def wait_for_runs(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        found = [path for path in (folder / "runs").glob("*/record.json") if '"done"' in path.read_text()]
        if len(found) >= count and len(list((folder / "runs").glob("*/metrics.jsonl"))) > len(found):
            return
        time.sleep(0.05)
    raise TimeoutError


def same_as(local: Path, folder: Path) -> None:
    """Every run is recorded once, whole, with the weights of the local one; the report says the same."""
    found = runs_in(folder / "runs")
    assert sorted(one.name for one in found) == sorted(one.name for one in runs_in(local / "runs"))
    for one in found:
        assert examine(one)[1:] == ([], [])
        assert read_record(one).weights_sha256 == read_record(local / "runs" / one.name).weights_sha256
        assert [row["step"] for row in read_metrics(one)] == list(range(1, STEPS + 1))
    clocked = {"seconds", "train_seconds", "eval_seconds", "tokens_per_second", "peak_memory_bytes", "train"}
    rows, expected = (read_json(place / "r" / "data" / "mini.json")["runs"] for place in (folder, local))
    for row, other in zip(rows, expected, strict=True):
        same = [name for name in other if name not in clocked and not isinstance(other[name], dict)]
        assert {name: row[name] for name in same} == {name: other[name] for name in same}
    verdicts = [(place / "r" / "MINI_REPORT.md").read_text().split("## ")[0] for place in (folder, local)]
    timeless = [re.sub(r"[\d.]+ core-hours", "core-hours", verdict) for verdict in verdicts]
    assert timeless[0] == timeless[1]


def lose_the_second_node(cluster: Any) -> None:
    cluster.remove_node(cluster.second, allow_graceful=False)


def stop_a_worker(cluster: Any) -> None:
    """As a machine does that goes down in good order; the runner has asked for nothing."""
    processes = Path("/proc").glob("[0-9]*/cmdline")
    found = [int(path.parent.name) for path in processes if b"ray::carry_out_task" in path.read_bytes()]
    os.kill(found[0], signal.SIGTERM)


def test_runs_of_a_cluster_that_is_started_here_get_their_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    launcher = RayLauncher(None, gpu=False, threads=1)
    try:
        assert launcher.slots >= 1 and ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("lose", [lose_the_second_node, pytest.param(stop_a_worker, marks=pytest.mark.slow)])
def test_a_run_that_is_lost_is_continued_elsewhere(tmp_path: Path, cluster: Any, lose: Any) -> None:
    """While two are in their steps, one on each of two nodes; all end with the weights of local ones."""
    script = [sys.executable, str(mini_runs.__file__)]
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "text.txt").write_text("".join(f"{i} bottles, {i * 7 % 13} of them green.\n" for i in range(600)))
    process = subprocess.Popen(
        [*script, str(tmp_path / "there"), cluster.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    runs, deadline = tmp_path / "there" / "runs", time.monotonic() + 100
    while len(list(runs.glob(f"*/{CHECKPOINT}"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    lose(cluster)
    subprocess.run([*script, str(tmp_path / "here")], check=True, capture_output=True, timeout=100)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    found, expected = (runs_in(tmp_path / where / "runs") for where in ("there", "here"))
    assert [one.name for one in found] == [one.name for one in expected] and len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert examine(one)[1:] == ([], [])
        assert read_record(one).weights_sha256 == read_record(other).weights_sha256
        assert [row["step"] for row in read_metrics(one)] == list(range(1, mini_runs.STEPS + 1))


@pytest.mark.slow
def test_a_cluster_without_what_runs_need_is_one_line(local: Path, tmp_path: Path, cluster: Any) -> None:
    process = runner(local, tmp_path, cluster, "--device", "cuda")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2 and "error: --launcher ray: the cluster has no GPU" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("node", ["none is lost", "one is lost"])
def test_a_campaign_on_two_nodes(local: Path, tmp_path: Path, cluster: Any, node: str) -> None:
    process = runner(local, tmp_path, cluster)
    if node == "one is lost":
        wait_for_runs(tmp_path, 4)
        cluster.remove_node(cluster.second, allow_graceful=False)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    same_as(local, tmp_path)


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_and_the_same_command_continues(local: Path, tmp_path: Path, cluster: Any) -> None:
    process = runner(local, tmp_path, cluster)
    wait_for_runs(tmp_path, 3)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and "the same command continues" in errors, errors
    assert "running" not in {read_record(one).status for one in runs_in(tmp_path / "runs")}
    process = runner(local, tmp_path, cluster)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    same_as(local, tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    """Found out before Ray is asked, which would try for minutes."""
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    (tmp_path / "text.txt").write_text("some text of a test " * 999)
    arguments = flags(tmp_path, "--launcher", "ray", "--ray-address", address)
    assert exit_code_of(lambda: carry_out(CAMPAIGN, arguments)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --ray-address {address}: ")
