"""What the machine allows: cores by quota, threads by size, GPUs by asking PyTorch, a commit that nothing can forge."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import INDEX
from ngpt import machine
from ngpt.campaign import engine
from ngpt.machine import core_count, has_gpu
from ngpt.presets import resolve
from ngpt.training import environment
from ngpt.training.environment import commit, default_threads

GROUPS = {
    "no groups at all": ("", {}, math.inf),
    "version 2, a limit": ("0::/user/a\n", {"user/a/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, none": ("0::/user/a\n", {"user/a/cpu.max": "max 100000\n"}, math.inf),
    "version 2, the parent's": ("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "200000 100000"}, 2.0),
    "version 2, a container's own root": ("0::/../../x\n", {"cpu.max": "50000 100000"}, 0.5),
    "version 1": (
        "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
        {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3.0,
    ),
    "version 1, none": (
        "3:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf,
    ),
    "another controller": ("3:cpuset:/a\n", {"cpu/a/cpu.max": "100 100"}, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_a_quota_counts_as_fewer_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    membership, files, quota = GROUPS[case]
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "groups")
    assert machine._cpu_quota(tmp_path / "membership") == quota
    monkeypatch.setattr(machine, "_cpu_quota", lambda _: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert core_count() == {math.inf: 8, 0.5: 1, 1.5: 2, 2.0: 2, 3.0: 3}[quota]


NODES = [[], ["nvidia0"], ["nvidia3", "nvidiactl"], ["dxg"], ["nvhost-gpu"], ["kfd"], ["null"]]


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("visible", [True, False])
def test_pytorch_decides_whether_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[str], visible: bool
) -> None:
    """Whichever number the device has, and also if CUDA_VISIBLE_DEVICES hides it."""
    (tmp_path / "dev").mkdir()
    for name in nodes:
        (tmp_path / "dev" / name).touch()
    (tmp_path / "torch.py").write_text(
        "import os\nclass cuda:\n    is_available = staticmethod(lambda: bool(os.environ['CUDA_VISIBLE_DEVICES']))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0" if visible else "")
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    has_gpu.cache_clear()
    assert has_gpu() == (visible and nodes not in ([], ["null"]))
    has_gpu.cache_clear()


def test_the_commit_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repository(name: str) -> Path:
        folder = tmp_path / name
        (folder / "ngpt").mkdir(parents=True)
        (folder / "ngpt" / "file.py").write_text(f"name = {name!r}\n")
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", name]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        return folder

    here, other = repository("here"), repository("other")
    expected = commit(here)
    assert expected is not None and expected != commit(other) and not expected.endswith("+")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert commit(here) == expected
    (here / "ngpt" / "file.py").write_text("name = 'changed'\n")
    assert commit(here) == f"{expected}+"
    assert commit(tmp_path) is None


SMALL, LARGE = {"n_embd": 64}, {"n_embd": 512, "seq_len": 256, "batch_size": 8}
THREADS = [  # fields, cores, ranks on the machine, OMP_NUM_THREADS, threads
    (SMALL, 8, 1, None, 1), (LARGE, 8, 1, None, 8), (LARGE, 8, 2, None, 4), (LARGE, 2, 4, None, 1),
    (LARGE, 8, 1, "3", 3), (LARGE, 8, 1, "16", 8), (LARGE, 8, 1, "", 8), (LARGE, 8, 1, "4,2", 8),
    (LARGE, 8, 2, "1", 4), (SMALL, 8, 1, "3", 1), (LARGE, 8, 1, "0", 1),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "cores", "ranks", "limit", "threads"), THREADS)
def test_threads_follow_the_size_the_cores_and_the_users_limit(
    fields: dict[str, int], cores: int, ranks: int, limit: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "core_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert default_threads(resolve(**fields), ranks) == threads


WATCHED = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))

sys.meta_path.insert(0, Watch())
from ngpt.command import main
from ngpt.errors import exit_code_of
exit_code_of(lambda: main(["--data", "nowhere"]))
"""


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to be said before PyTorch is loaded, also to the processes of a campaign."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "PASSIVE"]
    monkeypatch.setattr(engine, "carry_out", lambda *_: 0)
    with pytest.raises(SystemExit):
        engine.main("muon_lr_sweep", INDEX)
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC family 25 model 17"),
        ("processor\t: 0\nmodel name\t: ARM: v8\n", "ARM: v8"),
        ("processor\t: 0\n", platform.machine()),
        (None, platform.machine()),
    ],
)
def test_a_processor_is_named_with_its_generation(
    content: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two generations of one name differ in speed, so they must not be taken for one machine."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    if content is not None:
        machine.CPUINFO.write_text(content)
    assert machine.processor() == name
