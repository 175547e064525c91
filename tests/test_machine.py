"""What the machine allows: cores by quota, GPUs by asking PyTorch, and a commit that no variable can forge."""

import math
import os
import subprocess
from pathlib import Path

import pytest

from ngpt import machine
from ngpt.machine import core_count, has_gpu
from ngpt.training.environment import commit

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


@pytest.mark.parametrize("nodes", [[], ["nvidia0"], ["nvidia3", "nvidiactl"], ["dxg"], ["nvhost-gpu"], ["null"]])
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
