"""The command line: its frozen flags, flags -> configuration -> flags, and one clear line for everything wrong.

`python tests/test_command.py` rewrites tests/golden/flags.txt.
"""

import argparse
import dataclasses
import doctest
import json
import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ngpt.config
import ngpt.flags
import ngpt.presets
from ngpt.command import build_parser, main, parse
from ngpt.config import SECTIONS, RunConfig, Runtime, from_dict
from ngpt.data.shards import write_shard
from ngpt.errors import InputError, exit_code_of
from ngpt.flags import field_docs, to_flags
from ngpt.presets import PRESETS, resolve
from ngpt.training.record import CHECKPOINT, read_record
from ngpt.training.trainer import train

ROOT = Path(__file__).parents[1]
FLAGS = Path(__file__).parent / "golden" / "flags.txt"
TINY = [
    "--n-embd",
    "16",
    "--n-layer",
    "1",
    "--seq-len",
    "16",
    "--batch-size",
    "2",
    "--steps",
    "5",
    "--eval-tokens",
    "64",
]
ARCHS = typing.get_args(ngpt.config.Arch)


# --- flags -----------------------------------------------------------------------------------------------------------


def flag_list() -> str:
    """One flag a line, with its choices."""
    lines = []
    for action in build_parser()._actions:
        values = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.metavar or ""
        lines.append(f"{' '.join(action.option_strings)} {values}".strip())
    return "\n".join(lines) + "\n"


def test_the_flags_are_the_frozen_ones() -> None:
    assert flag_list() == FLAGS.read_text(), "if this is intended: python tests/test_command.py"


def test_every_field_is_a_flag_with_its_documentation_as_help() -> None:
    options = {action.dest: action for action in build_parser()._actions}
    for kind in (*SECTIONS.values(), Runtime):
        docs = field_docs(kind)
        assert set(docs) == {field.name for field in dataclasses.fields(kind)} and all(docs.values())
        for name, text in docs.items():
            assert (options[name].help or "").replace("%%", "%").startswith(text)
            assert options[name].default is argparse.SUPPRESS
    assert all(field_docs(RunConfig)[name] for name in ("preset", "seed"))
    assert len({field.name for kind in SECTIONS.values() for field in dataclasses.fields(kind)}) == sum(
        len(dataclasses.fields(kind)) for kind in SECTIONS.values()
    ), "a field's name says which section it is in"
    assert " ".join(field_docs(Runtime)["out"].split()) in " ".join(build_parser().format_help().split())


def test_the_examples_in_the_documentation() -> None:
    assert (doctest.testmod(ngpt.presets), doctest.testmod(ngpt.flags)) == ((0, 2), (0, 1))


def check_round_trip(config: RunConfig) -> None:
    given_back, runtime = parse(to_flags(config))
    assert given_back == config and runtime == Runtime()
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("arch", ARCHS)
def test_flags_and_configuration_round_trip(preset: str, optimizer: str, arch: str) -> None:
    config = resolve(preset, seed=7, optimizer=optimizer, arch=arch)
    check_round_trip(config)
    assert (config.optim.optimizer, config.model.arch, config.seed, config.preset) == (optimizer, arch, 7, preset)
    flags = to_flags(config)
    usual = PRESETS[preset].get("arch", "gated-ngpt")
    expected = [] if preset == "tiny" else ["--preset", preset]
    expected += [] if arch == usual else ["--arch", arch]
    expected += [] if optimizer == PRESETS[preset].get("optimizer", "muon") else ["--optimizer", optimizer]
    assert flags == [*expected, "--seed", "7"], "the shortest command line"


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field by its type, most of them valid."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(kinds)
    if kinds:
        return st.one_of(*(st.none() if kind is type(None) else values_of(kind) for kind in kinds))
    strategies = {
        bool: st.booleans(),
        int: st.integers(1, 300),
        float: st.floats(1e-12, 0.999) | st.floats(-1e-3, 1e3),
        str: st.sampled_from(["stdlib", "fineweb10b", "hf:some/name", "a folder/text.txt", "tokens.bin"]),
    }
    return strategies[hint]


OVERRIDES = st.lists(
    st.one_of(
        *(
            st.tuples(st.just(name), values_of(hint))
            for kind in SECTIONS.values()
            for name, hint in typing.get_type_hints(kind).items()
        )
    ),
    max_size=5,
).map(dict)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(preset=st.sampled_from(list(PRESETS)), seed=st.integers(0, 2**63 - 1), overrides=OVERRIDES)
def test_any_configuration_round_trips(preset: str, seed: int, overrides: dict[str, Any]) -> None:
    try:
        config = resolve(preset, seed=seed, **overrides)
    except InputError:
        assume(False)
    flat = ngpt.config.flatten(config)
    assert all(flat[name] == value for name, value in overrides.items() if value != "auto")
    check_round_trip(config)


OPTIONAL_CHOICES = [
    ("--geodesic-muon", "geodesic_muon", "lr"), ("--geodesic-muon lr", "geodesic_muon", "lr"),
    ("--geodesic-muon lr-norm", "geodesic_muon", "lr-norm"), ("--geodesic-muon none", "geodesic_muon", None),
    ("--geodesic-muon=lr-norm", "geodesic_muon", "lr-norm"), ("--geodesic-muon --lr 0.02", "geodesic_muon", "lr"),
    ("--lr 0.02 --geodesic-muon --no-nesterov", "geodesic_muon", "lr"), ("--lr 0.02", "geodesic_muon", None),
    ("--normuon", "normuon", "short-axis"), ("--normuon short-axis", "normuon", "short-axis"),
    ("--normuon rows --beta2 0.5", "normuon", "rows"), ("--normuon none", "normuon", None),
    ("--optimizer muon --normuon --geodesic-muon lr-norm", "normuon", "short-axis"), ("--seed 1", "normuon", None),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "name", "value"), OPTIONAL_CHOICES)
def test_a_bare_choice_is_the_first_and_none_is_none(arguments: str, name: str, value: str | None) -> None:
    config, runtime = parse(arguments.split())
    assert getattr(config.optim, name) == value and runtime == Runtime()


SPHERE: list[dict[str, Any]] = [
    {"geodesic_muon": "lr"}, {"geodesic_muon": "lr-norm", "normuon": "rows", "beta2": 0.9, "tangent": "before"},
    {"geodesic_muon": "lr-norm", "weight_decay": 0.1, "cautious_wd": True, "momentum_transport": "rotate"},
    {"geodesic_muon": "lr", "weight_decay": 0.1, "cautious_wd": True, "adjust_lr_fn": "none", "normuon": "short-axis"},
    {"tangent": "after", "momentum_transport": "parallel", "match_step": "angle"},
    {"geodesic_muon": "lr", "normuon": "short-axis", "arch": "gated-literal"},
    {"geodesic_muon": "lr-norm", "weight_decay": 99.0, "cautious_wd": True, "lr": 0.05},
    {"tangent": "both", "momentum_transport": "project", "match_step": "rms", "normuon": "short-axis"},
    {"weight_decay": 0.1, "cautious_wd": True, "arch": "gpt", "match_step": "rms", "normuon": "rows"},
]  # fmt: skip


@pytest.mark.parametrize("fields", SPHERE, ids=str)
@pytest.mark.parametrize("preset", ["tiny", "155m-literal"])
def test_options_of_the_sphere_round_trip(preset: str, fields: dict[str, Any]) -> None:
    if preset == "155m-literal" and "arch" not in fields:
        fields = {**fields, "arch": "gated-literal"}
    config = resolve(preset, **fields)
    assert all(getattr(config.optim, name) == value for name, value in fields.items() if name != "arch")
    check_round_trip(config)


@pytest.mark.parametrize(
    ("optim", "accepted"),
    [({"geodesic_muon": "lr"}, True), ({"geodesic_muon": None}, True), ({"normuon": "rows", "beta2": 0}, True),
     ({"geodesic_muon": "none"}, False), ({"geodesic_muon": True}, False), ({"geodesic_muon": 0.1}, False),
     ({"geodesic_muon": ["lr"]}, False), ({"normuon": ""}, False), ({"normuon": "columns"}, False),
     ({"beta2": "0.9"}, False), ({"beta2": None}, False), ({"beta2": 1.0}, False), ({"tangent": None}, False),
     ({"tangent": "inside"}, False), ({"momentum_transport": None}, False), ({"match_step": False}, False),
     ({"cautious_wd": 1, "weight_decay": 0.1}, False), ({"cautious_wd": True, "weight_decay": 0.1}, True),
     ({"cautious_wd": True}, False), ({"geodesic_muon": "lr", "normuon": "rows"}, False),
     ({"geodesic_muon": "lr", "weight_decay": 0.1}, False)],
    ids=str,
)  # fmt: skip
def test_a_read_configuration_is_checked_like_flags(optim: dict[str, Any], accepted: bool) -> None:
    content = dataclasses.asdict(resolve())
    content["optim"].update(optim)
    if accepted:
        assert dataclasses.asdict(from_dict(content)) == content
    else:
        with pytest.raises(InputError):
            from_dict(content)


def test_a_read_configuration_without_a_sphere_is_checked_too() -> None:
    for fields in ({"geodesic_muon": "lr"}, {"tangent": "after"}, {"momentum_transport": "project"}):
        content = dataclasses.asdict(resolve(arch="gpt"))
        content["optim"].update(fields)
        with pytest.raises(InputError, match="--arch gpt"):
            from_dict(content)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({}, []), ({"weight_decay": 0.1}, ["--weight-decay"]), ({"weight_decay": 0.1, "cautious_wd": True}, []),
     ({"weight_decay": 0.1, "arch": "gpt"}, []), ({"normuon": "short-axis"}, ["--normuon acts on the MLP's matrices:"]),
     ({"weight_decay": 0.1, "normuon": "rows"}, ["--weight-decay", "--normuon acts on the MLP's input matrices:"]),
     ({"normuon": "short-axis", "normuon_matrices": "mlp-out"}, ["--normuon acts on the MLP's output matrices:"]),
     ({"normuon": "rows", "normuon_matrices": "mlp-out"}, ["--normuon changes little: there rows"]),
     ({"normuon": "rows", "normuon_matrices": "attention"}, ["--normuon changes little: there rows"]),
     ({"normuon": "rows", "arch": "gated-literal"}, ["queries, keys and values"])],
    ids=str,
)  # fmt: skip
def test_what_does_less_than_it_seems_is_noted(fields: dict[str, Any], words: list[str]) -> None:
    found = ngpt.flags.notes(resolve(**fields))
    assert len(found) == len(words) and all(word in note for word, note in zip(words, found, strict=True))


def test_a_small_negative_number_is_a_value_and_no_flag() -> None:
    check_round_trip(resolve(gate_init=-1e-5))


@pytest.mark.parametrize("name", ["steps", "n_embd", "seed", "warmup_steps"])
def test_an_enormous_number_is_taken_or_refused(name: str) -> None:
    fields: dict[str, Any] = {name: 10**400}
    with suppress(InputError):
        check_round_trip(resolve(**fields))


@pytest.mark.parametrize(
    "change",
    [lambda c: c.pop("model"), lambda c: c.pop("seed"), lambda c: c["optim"].pop("lr"),
     lambda c: c["optim"].update(x=1), lambda c: c["model"].update(n_head="four"),
     lambda c: c["model"].update(n_head=5), lambda c: c.update(optim=None)],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    content = dataclasses.asdict(resolve())
    change(content)
    with pytest.raises(InputError):
        from_dict(content)


# --- one line and exit code 2 ----------------------------------------------------------------------------------------


def complaint(command: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `command` ends, after checking that it is one and that the exit code is 2."""
    capsys.readouterr()

    def run() -> int:
        command()
        return 0

    try:
        code: Any = exit_code_of(run)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("error: ") and captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert "\r" not in captured.err and "Traceback" not in captured.err
    return captured.err


WRONG_FLAGS = [
    "--no-such-flag 3", "stray", "--n-lay 3", "--lr", "--optimizer sgd", "--dtype float16", "--preset huge",
    "--lr -1", "--lr 0", "--lr nan", "--lr inf", "--lr much", "--aux-lr -1", "--aux-lr-ratio 0", "--grad-clip 0",
    "--n-embd 30", "--n-head 0", "--n-embd 4", "--n-layer -1", "--seq-len 0", "--alpha 0", "--gate-init nan",
    "--logit-scale-init 0", "--logit-scale-init -1", "--logit-scale-init nan", "--logit-scale-init sqrt",
    "--logit-scale-init none",
    "--steps 0", "--steps 1.5", "--steps 1e3", "--batch-size 0", "--eval-tokens 0", "--eval-every 0", "--log-every 0",
    "--telemetry-every -1", "--max-skipped-in-a-row 0", "--time-budget-seconds 0", "--time-budget-seconds nan",
    "--momentum 1", "--momentum -0.1", "--momentum-start 1", "--adam-beta2 1", "--weight-decay -0.1",
    "--ns-steps 0", "--lazy-proj-freq 0", "--warmup-steps -1", "--decay-share 0 --schedule wsd",
    "--decay-share 1.1 --schedule sqrt", "--decay-power 0 --schedule power", "--decay-rho 0 --schedule log",
    "--decay-rho 1e7 --schedule log", "--lr-floor 1 --schedule linear",
    "--ns-steps 4 --orthogonalizer you", "--seed -1", "--seed 9223372036854775808",
    "--seed x", "--shards 0 --data fineweb10b", "--tokenizer bytes --data fineweb10b", "--threads -1", "--save-every 0",
    "--overfit-windows 0",
    "--geodesic-muon angle", "--geodesic-muon 0.1", "--normuon columns", "--normuon 0.9", "--tangent inside",
    "--tangent", "--momentum-transport linear", "--match-step length", "--beta2 1", "--beta2 -0.1",
    "--geodesic-muon --arch gpt", "--geodesic-muon lr-norm --arch gpt", "--tangent before --arch gpt",
    "--tangent after --arch gpt", "--momentum-transport parallel --arch gpt", "--match-step angle --arch gpt",
    "--weight-decay 20 --lr 0.05", "--weight-decay 1 --lr 1 --cautious-wd",
    "--weight-decay 99 --optimizer adam --lr 0.02",
]  # fmt: skip

WITHOUT_EFFECT = [
    "--momentum 0.9 --optimizer adam", "--momentum-start 0.9 --optimizer adam", "--nesterov --optimizer adam",
    "--no-nesterov --optimizer adam", "--orthogonalizer svd --optimizer adam", "--ns-steps 3 --optimizer adam",
    "--adjust-lr-fn none --optimizer adam", "--momentum-warmup-steps 9 --optimizer adam", "--momentum-warmup-steps 9",
    "--ns-steps 3 --orthogonalizer svd", "--alpha 0.2 --arch gpt", "--gate-init 1 --arch gpt",
    "--gate-init 1 --arch ngpt", "--logit-scale-init 2 --arch gpt", "--logit-scale-init sqrt-d --arch gated-literal",
    "--lazy-proj-freq 3 --arch gpt", "--decay-share 0.5", "--lr-floor 0.1",
    "--decay-share 0.5 --schedule constant", "--decay-power 2", "--decay-power 2 --schedule linear",
    "--decay-rho 1 --schedule power", "--aux-lr 0.1 --aux-lr-ratio 0.1", "--aux-lr 0.1 --preset 155m-literal",
    "--shards 2", "--steps 10 --time-budget-seconds 5",
    "--geodesic-muon --optimizer adam", "--normuon rows --optimizer adam", "--tangent after --optimizer adam",
    "--momentum-transport project --optimizer adam", "--match-step rms --optimizer adam", "--beta2 0.9",
    "--nan-fallback normuon --optimizer adam", "--nan-fallback normuon --normuon",
    "--nan-fallback normuon --geodesic-muon lr", "--overfit-windows 3 --eval-tokens 100",
    "--beta2 0.9 --optimizer adam", "--cautious-wd --optimizer adam --weight-decay 0.1", "--cautious-wd",
    "--adjust-lr-fn none --geodesic-muon lr", "--adjust-lr-fn original --match-step angle",
    "--normuon --geodesic-muon lr", "--match-step rms --geodesic-muon", "--match-step angle --geodesic-muon lr",
    "--tangent after --geodesic-muon lr", "--tangent both --geodesic-muon lr-norm",
    "--weight-decay 0.1 --geodesic-muon", "--match-step rms --orthogonalizer svd",
    "--momentum-transport project --momentum 0", "--momentum-transport rotate --tangent before",
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG_FLAGS + WITHOUT_EFFECT, ids=lambda text: text[:60])
def test_wrong_flags_are_named(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(lambda: parse(arguments.split()), capsys)
    name = arguments.split()[0].replace("--no-nesterov", "--nesterov")
    assert name in line
    assert ("no effect" in line) == (arguments in WITHOUT_EFFECT)


def test_a_flag_of_muon_is_first_refused_for_adam(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--cautious-wd", "--geodesic-muon lr --normuon", "--momentum-transport project --momentum 0"):
        assert "--optimizer adam" in complaint(lambda f=flag: parse([*f.split(), "--optimizer", "adam"]), capsys)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of text, good and bad."""
    text = "".join(f"line {i} of the text\n" for i in range(200))
    (tmp_path / "good.txt").write_text(text)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "latin.txt").write_bytes(text.encode() + b"\xe4\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "text.pdf").write_text("%PDF-1.7\n" + text)
    (tmp_path / "folder").mkdir()
    tokens = np.arange(500, dtype=np.uint16)
    write_shard(tmp_path / "good.bin", tokens)
    content = (tmp_path / "good.bin").read_bytes()
    (tmp_path / "magic.bin").write_bytes(b"\1" + content[1:])
    (tmp_path / "truncated.bin").write_bytes(content[:-10])
    write_shard(tmp_path / "beyond.bin", np.append(tokens, np.uint16(50257)))
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets.config
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)


def arguments_for(files: Path, data: str = "good.txt", out: str = "runs", *more: str) -> list[str]:
    return [*TINY, "--data", str(files / data), "--out", str(files / out), "--threads", "1", "--no-progress", *more]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("absent.txt", "no such file"),
        ("empty.txt", "tokens"),
        ("short.txt", "tokens"),
        ("latin.txt", "not UTF-8"),
        ("bad.jsonl", "line 2"),
        ("text.pdf", "PDF"),
        ("folder", "empty folder"),
        ("magic.bin", "magic"),
        ("truncated.bin", "truncated"),
        ("beyond.bin", "50257"),
    ],
)
def test_bad_data_are_named(files: Path, data: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(lambda: main(arguments_for(files, data)), capsys)
    assert str(files / data) in line and reason in line
    assert not (files / "runs").exists()


@pytest.mark.parametrize("data", ["fineweb10b", "hf:none"])
def test_an_unreachable_hub(data: str, offline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(lambda: main([*TINY, "--data", data, "--out", str(tmp_path / "runs"), "--no-progress"]), capsys)
    assert f"--data {data}" in line


def test_no_cuda(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = complaint(lambda: main([*arguments_for(files), "--device", "cuda"]), capsys)
    assert "--device cuda" in line


@pytest.mark.parametrize("out", ["good.txt", "good.txt/below", "good.txt/deep/below"])
def test_a_folder_that_cannot_be_written(files: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(lambda: main(arguments_for(files, out=out)), capsys)
    assert str(files / "good.txt") in line


def test_a_damaged_checkpoint_or_record_on_resume(
    files: Path, capsys: pytest.CaptureFixture[str], torch_as_it_was: None
) -> None:
    arguments = arguments_for(files, "good.txt", "runs", "--save-every", "1")

    def interrupt(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*parse(arguments), interrupt)
    (folder,) = (files / "runs").glob("muon-*")
    for name, position in ((CHECKPOINT, -9), (CHECKPOINT, 300), ("record.json", 40)):
        good = (folder / name).read_bytes()
        bad = bytearray(good)
        bad[position] ^= 1
        (folder / name).write_bytes(bad)
        line = complaint(lambda: main([*arguments, "--resume"]), capsys)
        assert str(folder / name) in line
        (folder / name).write_bytes(good)
    assert main([*arguments, "--resume"]) == 0


def test_a_run_that_works(files: Path, capsys: pytest.CaptureFixture[str], torch_as_it_was: None) -> None:
    """The folder is the last line on standard output; progress goes to standard error."""
    arguments = [flag for flag in arguments_for(files, "good.txt", "runs", "--normuon") if flag != "--no-progress"]
    assert main(arguments) == 0
    output, errors = capsys.readouterr()
    folder = Path(output.splitlines()[-1])
    record = read_record(folder)
    assert folder.parent == files / "runs" and record.status == "done"
    assert f"{record.final_val_loss:.4f}" in output and "5 steps" in output
    assert "/5" in errors and "loss" not in output.splitlines()[-1]
    assert (
        [line for line in errors.splitlines() if line.startswith("note: ")]
        == [f"note: {note}" for note in ngpt.flags.notes(parse(arguments)[0])]
        != []
    )
    assert main([*arguments, "--no-progress", "--name", "quiet"]) == 0
    assert "/5" not in capsys.readouterr().err


def test_the_real_command_ends_in_one_line(tmp_path: Path) -> None:
    """In processes of their own, which run at the same time."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    cases = [["--no-such-flag"], ["--data", str(tmp_path / "absent.txt")], ["--data", "fineweb10b"]]
    pipe = subprocess.PIPE
    options: dict[str, Any] = dict(stdout=pipe, stderr=pipe, text=True, env=environment, cwd=tmp_path)
    running = [
        subprocess.Popen([sys.executable, ROOT / "train_architectural.py", *case, "--out", tmp_path], **options)
        for case in cases
    ]
    results = [(*process.communicate(timeout=120), process.returncode) for process in running]
    for case, (output, errors, code) in zip(cases, results, strict=True):
        assert (code, output, errors.count("\n")) == (2, "", 1), errors
        assert errors.startswith("error: ") and case[-1] in errors


if __name__ == "__main__":
    FLAGS.write_text(flag_list())
