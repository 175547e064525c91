"""A whole campaign through its command: plan, interruption, resume, kill, report; and its refusals."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ngpt.campaign import engine
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Method
from ngpt.campaign.definition.plan import Plan
from ngpt.campaign.execution import options
from ngpt.errors import InputError, exit_code_of
from ngpt.files import read_json, write_json

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN, carry_out, heed_interrupts
from mini_processes import started

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("mini.py")


(FIRST,) = CAMPAIGN.contrasts()
ASKS_FOR_3 = dataclasses.replace(CAMPAIGN.rule, seeds=3)
IN_BITS = dataclasses.replace(CAMPAIGN.rule, metric="final_val_bpb", unit="bits per byte")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} bottles of beer on the wall, {i * 7 % 13} of them green.\n" for i in range(400)))
    return path


def command(folder: Path, *flags: str) -> list[str]:
    data = str(folder / "text.txt")
    return [
        sys.executable,
        str(SCRIPT),
        "--data",
        data,
        "--out",
        str(folder / "runs"),
        "--reports",
        str(folder / "r"),
        *flags,
    ]


def run(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(folder, *flags), capture_output=True, text=True, timeout=240)


def in_this_process(folder: Path, *flags: str) -> int:
    """The exit code of a command; a process of its own would first import everything."""
    try:
        return exit_code_of(lambda: carry_out(CAMPAIGN, command(folder, *flags)[2:]))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def finished(folder: Path) -> dict[str, int]:
    """Modification time of the record of each finished run."""
    records = [
        path for path in (folder / "runs").glob("*/record.json") if json.loads(path.read_text())["status"] == "done"
    ]
    return {path.parent.name: path.stat().st_mtime_ns for path in records}


@pytest.mark.drawn
def test_a_campaign_interrupted_killed_and_continued(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_this_process(tmp_path, "--dry-run", "--steps", "40") == 0
    plan = capsys.readouterr().out
    assert "16 runs, 0 finished" in plan and "estimated time" in plan
    assert "data: text.txt: text" in plan and " validation tokens\n" in plan
    assert not (tmp_path / "runs").exists()

    for number, enough in ((signal.SIGINT, 3), (signal.SIGKILL, 7)):
        process = subprocess.Popen(
            command(tmp_path, "--steps", "40"),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            preexec_fn=heed_interrupts,
        )
        deadline = time.monotonic() + 120
        while len(finished(tmp_path)) < enough and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130 and b"the same command continues" in error, error
            assert b"data: text.txt: text" in error
        before = finished(tmp_path)
        assert enough <= len(before) < 16

    assert in_this_process(tmp_path, "--steps", "40") == 0
    after = finished(tmp_path)
    assert len(after) == 16 and before.items() <= after.items(), "a finished run was repeated"
    assert sum(path.is_dir() for path in (tmp_path / "runs").iterdir()) == 17, "16 runs and the folder of locks"

    report = Path(capsys.readouterr().out.splitlines()[-1])
    content = report.read_text()
    assert report.name == "MINI_REPORT.md" and "16 runs planned: 16 done" in content
    assert all(
        (report.parent / "figures" / f"mini_{kind}.png").stat().st_size > 10_000
        for kind in ("differences", "telemetry")
    )

    report.unlink()
    assert in_this_process(tmp_path, "--steps", "40", "--report-only") == 0
    assert report.read_text() == content and finished(tmp_path) == after

    (tmp_path / "runs").rename(tmp_path / "elsewhere")  # a checkout without its runs: the report from its data
    report.unlink()
    assert in_this_process(tmp_path, "--steps", "40", "--report-only") == 0 and report.read_text() == content

    capsys.readouterr()
    assert in_this_process(tmp_path, "--reproduce") == 0
    assert capsys.readouterr().out.endswith("2 of 2 runs have the published weights to the bit\n")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())

    published = tmp_path / "r" / "data" / "mini.json"
    data = read_json(published)
    row = next(row for row in data["runs"] if row["stage"] == "comparison" and row["method"] == "Adam")
    row["final_sha256"], row["final_val_loss"] = "0" * 16, row["final_val_loss"] - 0.5
    write_json(published, data)
    assert in_this_process(tmp_path, "--reproduce") == 1
    assert "other weights, loss +0.5\n1 of 2 runs" in capsys.readouterr().out

    text.write_text(text.read_text() + "and one more line\n")
    capsys.readouterr()
    assert in_this_process(tmp_path, "--reproduce") == 2
    assert "had other data" in capsys.readouterr().err.splitlines()[-1]


def test_a_report_goes_where_git_does_not_look_unless_it_is_published(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "reports"
    monkeypatch.setattr(options, "PUBLISHED", published)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())

    def untracked() -> list[str]:
        done = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:-1]

    subprocess.run(["git", "init", "-q"], check=True)
    before = untracked()
    flags = ["--data", "text.txt", "--steps", "4"]
    assert carry_out(CAMPAIGN, flags) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == Path("runs/reports/MINI_REPORT.md") and untracked() == before, "git sees nothing new"
    assert "](MINI_REPORT.md)" in (path.parent / "README.md").read_text(), "its index lists it"
    assert (path.parent / "data" / "mini.json").exists() and not published.exists()

    with pytest.raises(InputError, match=r"reports/data/mini.json: no such file"):
        carry_out(CAMPAIGN, [*flags, "--reproduce"])
    assert carry_out(CAMPAIGN, [*flags, "--publish"]) == 0
    assert (published / path.name).read_bytes() == path.read_bytes(), "and says how to make it without publishing it"
    assert untracked() == [*before[:1], "?? reports/", *before[1:]]
    (tmp_path / "runs").rename(tmp_path / "elsewhere")  # a fresh checkout has no runs
    (published / path.name).unlink()
    assert carry_out(CAMPAIGN, [*flags, "--publish", "--report-only"]) == 0 and (published / path.name).exists()
    capsys.readouterr()
    assert carry_out(CAMPAIGN, [*flags, "--reproduce"]) == 0 and "2 of 2 runs have" in capsys.readouterr().out

    assert carry_out(CAMPAIGN, ["--data", str(text), *flags[2:], "--text", "bottles", "--out", "elsewhere"]) == 0
    content = (tmp_path / "elsewhere" / "reports" / "data" / "mini_on_bottles.json").read_text()
    assert str(tmp_path) not in content and '"command": "python runners/mini.py --data text.txt --steps 4' in content
    (tmp_path / "moved").mkdir()
    moved = text.rename(tmp_path / "moved" / "text.txt")
    again = ["--data", str(moved), "--text", "bottles", "--reports", "elsewhere/reports", "--reproduce"]
    assert carry_out(CAMPAIGN, [*again, *flags[2:]]) == 0 and "2 of 2 runs have" in capsys.readouterr().out
    moved.rename(text)

    assert in_this_process(tmp_path, "--publish") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: argument --publish: not allowed with argument --reports (see --help)"


def test_two_runners_on_one_folder_share_the_work(tmp_path: Path, text: Path) -> None:
    names = ("one", "other")
    both = [started(tmp_path, "--steps", "12", "--jobs", "1", says=name) for name in names]
    for process in both:
        process.join(240)
    assert [process.exitcode for process in both] == [0, 0], [(tmp_path / f"{n}.err").read_text() for n in names]
    assert len(finished(tmp_path)) == 16
    one, other = ((tmp_path / f"{name}.out").read_text().splitlines() for name in names)
    assert one[:-1] == other[:-1] and one


def test_runners_that_start_at_once_all_find_their_folder_writable(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(options.require_writable, [tmp_path / "reports"] * 400))
    assert not list((tmp_path / "reports").iterdir()), "nothing is left"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        options.require_writable(tmp_path / "file" / "reports")


def test_two_arms_of_one_configuration_are_refused() -> None:
    same = dataclasses.replace(CAMPAIGN.methods[0], name="Muon again")
    campaign = dataclasses.replace(CAMPAIGN, methods=(*CAMPAIGN.methods, same))
    plan = Plan(campaign=campaign, preset="tiny", overrides={}, tuning_seeds=2, comparison_seeds=2, data_digest="0")
    with pytest.raises(
        InputError, match="two arms are the same configuration: 'Muon, lr 0.01' and 'Muon again, lr 0.01'"
    ):
        plan.tuning_runs()


@pytest.mark.parametrize("lrs", [(0.1,), ()], ids=["a rate that is not tuned", "rates of another"])
def test_what_no_tuning_run_tries_is_refused_before_any_run(tmp_path: Path, text: Path, lrs: tuple[float, ...]) -> None:
    wrong = Method(name="wrong", fields={"optimizer": "muon", "lazy_projfreq": 1}, lrs=lrs,
                   at_rates_of="" if lrs else CAMPAIGN.methods[0].name)  # fmt: skip
    study = CampaignStudy(dataclasses.replace(CAMPAIGN, methods=(*CAMPAIGN.methods, wrong)))
    given = study.parser().parse_args(["--data", str(text), "--out", str(tmp_path)])
    with pytest.raises(InputError, match="lazy_projfreq"):
        study.plan(given)


def test_a_runner_without_an_experiment_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        engine.main("mine", [CampaignStudy(CAMPAIGN)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: mine: not in INDEX of experiments/__init__.py\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baselines": ("SGD",)}, "every family has one baseline"),
        ({"baselines": ("Muon", "Adam")}, "every family has one baseline"),
        ({"comparison_seeds": 1}, "asks for 2 seeds"),
        ({"further": (dataclasses.replace(FIRST, name="again", question="?", rule=ASKS_FOR_3),)}, "asks for 3 seeds"),
        ({"aux_lrs": (0.02, 0.01)}, "the rates of a grid increase"),
        ({"methods": (CAMPAIGN.methods[0], Method(name="Adam", fields={}, lrs=(0.1, 0.2, 0.2)))}, "grid increase"),
        ({"leading": CAMPAIGN.contrasts()}, "names of contrasts must differ"),
        ({"leading": (dataclasses.replace(FIRST, name="again", rule=ASKS_FOR_3),)}, "have one rule"),
        ({"leading": (dataclasses.replace(FIRST, name="again", question="?", rule=IN_BITS),)}, "judge one metric"),
        ({"methods": (CAMPAIGN.methods[0], Method(name="Adam", fields={}, lrs=(0.1, 0.2)))}, "grid of the same"),
    ],
)
def test_an_experiment_that_cannot_be_judged_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CAMPAIGN, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "1"), "--seeds must be 2 to 1000"),
        (("--preset", "huge"), "invalid choice"),
        (("--steps", "-3"), "--steps must be positive"),
        (("--data", "nowhere.txt"), "no such file"),
        (("--out", "text.txt/runs"), "text.txt"),
        (("--report-only",), "no finished run"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_this_process(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and message in error


def test_a_script_ends_in_one_line_and_code_2(tmp_path: Path, text: Path) -> None:
    result = run(tmp_path, "--steps", "-3")
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith("error: --steps must be positive")
    assert "Traceback" not in result.stderr


def test_pairing_gives_all_arms_of_a_seed_the_same_batches_and_initialization() -> None:
    plan = Plan(campaign=CAMPAIGN, preset="tiny", overrides={}, tuning_seeds=2, comparison_seeds=2, data_digest="0")
    runs = plan.tuning_runs()
    assert {run.seed for run in runs} == {0, 1}
    for run in runs:
        twin = next(other for other in runs if other.seed == run.seed and other.arm.method != run.arm.method)
        assert (run.config.model, run.config.train, run.config.data) == (
            twin.config.model,
            twin.config.train,
            twin.config.data,
        )
    chosen = {run.arm.method: run.arm for run in runs}
    assert not {run.seed for run in runs} & {run.seed for run in plan.comparison_runs(chosen)}


def test_a_long_tmpdir_is_named(tmp_path: Path) -> None:
    """Sockets have paths of at most 107 bytes."""
    place = tmp_path / ("x" * 100)
    place.mkdir()
    command = [sys.executable, str(ROOT / "runners" / "muon_lr_sweep.py"), "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(place)}, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: TMPDIR has to be shorter") and last.endswith(str(place))


def test_without_a_compiler_a_compiled_campaign_is_refused_at_once_and_another_flag_does_without(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert in_this_process(tmp_path, "--preset", "rung-1", "--device", "cpu") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "compiler" in one]
    assert line.endswith("no no-such-compiler on this machine: install it, or give --no-compile, which is slower")
    assert not any((tmp_path / "runs").glob("*-s*"))
    study = CampaignStudy(CAMPAIGN)
    for flags, compiled in (([], True), (["--no-compile"], False)):
        given = study.parser().parse_args([*command(tmp_path, "--preset", "rung-1")[2:], *flags])
        assert {run.config.train.compile for run in study.plan(given).tuning_runs()} == {compiled}


@pytest.mark.parametrize("words", [("--dry-run", "--report-only"), ("--report-only", "--reproduce")])
def test_modes_exclude_each_other(tmp_path: Path, words: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"^{words[0]} and {words[1]} exclude each other$"):
        carry_out(CAMPAIGN, [*words, "--out", str(tmp_path)])
