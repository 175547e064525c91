"""How a command ends: its exit code is what it did, whatever becomes of what it prints."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = """
import sys
from ngpt.errors import InputError, exit_code_of

def command():
    for _ in range(1000):
        print("größe ≥ –")
        print("größe ≥ –", file=sys.stderr)
    sys.stdout.flush()
    open(sys.argv[2], "w").write("a file of its own")
    print("the end")
    if sys.argv[1] == "input":
        raise InputError("größe")
    if sys.argv[1] == "system":
        open("/nowhere")
    return int(sys.argv[1])

sys.exit(exit_code_of(command))
"""
ONLY_PRINTS = "import sys, ngpt.errors as e; sys.exit(e.exit_code_of(lambda: print(1) or 0, only_prints=True))"
CODES = {"0": 0, "1": 1, "input": 2, "system": 2}
STREAMS = ["", "| true", ">/dev/full", "2>/dev/full", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>&-"]


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("ends", CODES)
def test_a_command_does_not_fail_because_printing_does(tmp_path: Path, ends: str, streams: str) -> None:
    """Readers that go away, full disks, closed streams; a terminal that knows only ASCII."""
    (tmp_path / "command.py").write_text(COMMAND, encoding="utf-8")
    pipe = "" if "|" not in streams else "; exit ${PIPESTATUS[0]}"
    line = f"{sys.executable} {tmp_path / 'command.py'} {ends} {tmp_path / 'file'} {streams} {pipe}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == CODES[ends], done.stderr[-500:]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "a file of its own"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    if not streams:
        assert done.stdout.endswith("the end\n") and r"gr\xf6\xdfe \u2265 \u2013" in done.stdout


def test_a_command_that_only_prints_fails_if_it_cannot(tmp_path: Path) -> None:
    """As `ngpt.runs --csv > file` on a full disk."""
    command = f"{sys.executable} -c {ONLY_PRINTS!r} > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("streams", ["| true", "2>&-"])
def test_a_finished_run_stays_finished(tmp_path: Path, streams: str) -> None:
    small = "--steps 2 --n-layer 1 --n-embd 16 --n-head 2 --eval-tokens 64 --threads 1"
    line = f"{sys.executable} train_architectural.py {small} --out {tmp_path} {streams}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"status": "done"' in next(tmp_path.glob("*/record.json")).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["ngpt.runs", "ngpt.sample", "ngpt.doctor", "train_architectural"])
def test_help_needs_no_docstrings(module: str) -> None:
    done = subprocess.run([sys.executable, "-OO", "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage")


def test_a_closed_stream_stays_closed_in_the_processes_that_a_command_starts(tmp_path: Path) -> None:
    """A file that such a process opens must not become its standard error."""
    child = (
        "import os, sys; there = [str(n) for n in range(3) if os.path.exists(f'/dev/fd/{n}')]; "
        "open(sys.argv[1], 'w').write(''.join(there))"
    )
    (tmp_path / "command.py").write_text(
        "import subprocess, sys\nfrom ngpt.errors import exit_code_of\n"
        f"start = lambda: subprocess.run([sys.executable, '-c', {child!r}, sys.argv[1]], close_fds=False).returncode\n"
        "sys.exit(exit_code_of(start))\n"
    )
    line = f"{sys.executable} {tmp_path / 'command.py'} {tmp_path / 'found'} <&- >&- 2>&-"
    subprocess.run(["bash", "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert (tmp_path / "found").read_text() == "012"


def test_a_run_needs_no_docstrings_and_no_assertions(tmp_path: Path) -> None:
    small = "--optimizer muon --steps 2 --n-layer 1 --n-embd 16 --n-head 2 --eval-tokens 64 --threads 1".split()
    command = [sys.executable, "-OO", "train_architectural.py", *small, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"status": "done"' in next(tmp_path.glob("*/record.json")).read_text(encoding="utf-8")


INTERRUPTED = {
    "train_architectural.py --steps 2": "torch", "-m ngpt.sample {runs}": "torch", "-m ngpt.doctor {runs}": "torch",
    "runners/muon_lr_sweep.py --out {runs}": "numpy",
}
"""Commands, and a package that each imports first of those that take long"""


@pytest.mark.parametrize("command", INTERRUPTED)
def test_ctrl_c_while_modules_are_imported_ends_a_command_in_one_line(tmp_path: Path, command: str) -> None:
    """It comes inside the import of a package, where Python would lose it or show where it was."""
    package = tmp_path / "packages" / INTERRUPTED[command]
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(5)\n"
        "except KeyboardInterrupt:\n    pass\nraise ImportError('went on')\n"
    )
    (tmp_path / "runs").mkdir()
    words = command.format(runs=tmp_path / "runs").split()
    environment = os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, preexec_fn=heed
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


TAKE_A_FOLDER = [
    "train_architectural.py --out", "runners/muon_lr_sweep.py --out",
    *(f"-m ngpt.{name}" for name in ("runs", "doctor", "sample")),
]


@pytest.mark.parametrize("command", TAKE_A_FOLDER)
def test_an_empty_path_is_no_path(command: str) -> None:
    """As of a shell's variable that is not set."""
    done = subprocess.run([sys.executable, *command.split(), ""], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: argument ") and "an empty path" in done.stderr
    assert done.stderr.count("\n") == 1
