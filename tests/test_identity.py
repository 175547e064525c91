"""A run's identity: everything that can change its numbers, and nothing else."""

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ngpt import code
from ngpt.code import CODE, plain_code
from ngpt.config import SECTIONS, OptimConfig, RunConfig
from ngpt.errors import InputError
from ngpt.files import write_json
from ngpt.identity import run_digest, run_id
from ngpt.presets import resolve

PACKAGE = Path(code.__file__).parent
NOT_IN_IT = {"data.data", "data.shards"}
BY_CONTENT = {"train.init_from"}
OTHER: dict[str, Any] = {
    "n_head": 2, "n_embd": 128, "ns_steps": 6, "lr_floor": 0.5, "geodesic_muon": "lr", "normuon": "rows",
    "nan_fallback": "normuon", "optimizer": "adam", "optimizer_args": "momentum=0.9", "logit_scale_init": 2.0,
    "vocab_lr": 0.05,
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "cautious_wd": {"weight_decay": 0.1}, "optimizer_args": {"optimizer": "torch.optim:SGD", "lr": 0.1},
    "normuon_matrices": {"normuon": "rows"}, "vocab_lr": {"vocab_rule": "rmnp"},
    "tail_ema_weight": {"tail_ema_steps": 9}, "tail_ema_start": {"tail_ema_steps": 9},
}  # fmt: skip
"""What else a configuration must have for another value of a field to be accepted."""

FIELDS = [f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]


def changed(config: RunConfig, name: str) -> RunConfig:
    """`config` with another valid value of one field."""
    section, field = name.split(".")
    owner = getattr(config, section)
    hint = typing.get_type_hints(type(owner))[field]
    value = getattr(owner, field)
    if field in OTHER:
        other = OTHER[field]
    elif isinstance(value, bool):
        other = not value
    elif typing.get_origin(hint) is typing.Literal:
        other = next(choice for choice in typing.get_args(hint) if choice not in (value, "you"))
    elif value is None:
        other = {float: 0.5, int: 3, str: "runs/another"}[typing.get_args(hint)[0]]
    elif isinstance(value, str):
        other = value + ".txt"
    else:
        other = value + 1 if isinstance(value, int) else value / 2 + 0.01
    assert other != value
    return dataclasses.replace(config, **{section: dataclasses.replace(owner, **{field: other})})


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in BY_CONTENT])
def test_every_field_counts_but_the_place_of_the_data(name: str) -> None:
    config = resolve(**NEEDED.get(name.split(".")[1], {}))
    same = run_digest(changed(config, name), "data") == run_digest(config, "data")
    assert same == (name in NOT_IN_IT)
    assert (run_id(changed(config, name), "data") == run_id(config, "data")) == same


@pytest.mark.parametrize("name", ["geodesic_muon", "normuon", "tangent", "momentum_transport", "match_step"])
def test_every_choice_is_another_run(name: str) -> None:
    hint = typing.get_type_hints(OptimConfig)[name]
    literals = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is typing.Literal]
    choices = {None, *typing.get_args(literals[0])} if literals[0] is not hint else set(typing.get_args(hint))
    fields: list[dict[str, Any]] = [{name: choice} for choice in choices]
    assert len({run_digest(resolve(**given), "data") for given in fields}) == len(choices) >= 3


def test_transferred_weights_count_and_not_their_place(tmp_path: Path) -> None:
    digests = []
    for place, weights in (("a", "1" * 64), ("b", "2" * 64), ("c", "1" * 64)):
        (tmp_path / place).mkdir()
        write_json(tmp_path / place / "record.json", {"weights_sha256": {"final": weights}})
        digests.append(run_digest(resolve(init_from=str(tmp_path / place)), "data"))
    assert digests[0] == digests[2] != digests[1] and run_digest(resolve(), "data") not in digests
    with pytest.raises(InputError, match="absent"):
        run_digest(resolve(init_from=str(tmp_path / "absent")), "data")
    (tmp_path / "diverged").mkdir()
    write_json(tmp_path / "diverged" / "record.json", {"weights_sha256": {"first": "1" * 64}})
    with pytest.raises(InputError, match="diverged: this run did not end with weights"):  # and is no run from scratch
        run_digest(resolve(init_from=str(tmp_path / "diverged")), "data")


def test_data_and_seed() -> None:
    config = resolve(optimizer="adam")
    seeds = [dataclasses.replace(config, seed=seed) for seed in (0, 1, 2**62)]
    assert len({run_digest(c, "data") for c in seeds}) == 1, "the runs of one arm"
    assert len({run_id(c, "data") for c in seeds}) == 3
    assert run_digest(config, "data") != run_digest(config, "other data")
    assert run_id(config, "data") == f"adam-{run_digest(config, 'data')[:10]}-s0"


def test_the_preset_is_a_name_and_no_difference() -> None:
    config = resolve("tiny", **SAME)
    assert run_digest(config, "data") == run_digest(resolve("trinity", **SAME), "data")


SAME: dict[str, Any] = dict(
    n_layer=3, n_embd=243, n_head=9, seq_len=81, batch_size=27, steps=2000, eval_every=200, ns_steps=10, lr=0.01
)


# --- the code --------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package to be changed."""
    return shutil.copytree(PACKAGE, tmp_path / "ngpt", ignore=shutil.ignore_patterns("__pycache__"))


def code_of(package: Path) -> Any:
    """`ngpt.code` of a copy of the package."""
    spec = importlib.util.spec_from_file_location("copied_code", package / "code.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest_of(package: Path) -> str:
    """What `code_digest` gives in a copy of the package."""
    return str(code_of(package).code_digest())


DIGESTS = Path(__file__).with_name("golden") / "digests.json"
STORED = json.loads(DIGESTS.read_text(encoding="utf-8"))
"""Digests that every supported version of Python gives; `python tests/test_identity.py` writes those of configurations,
which every new field changes"""


def test_python_of_every_version_reads_the_same_code() -> None:
    source = Path(__file__).with_name("golden") / "syntax.txt"
    assert hashlib.sha256(plain_code(source.read_bytes()).encode()).hexdigest()[:16] == STORED["syntax"]


def digests_of_configurations() -> dict[str, str]:
    """Digests of whole configurations, by optimizer, as if the code were always the same."""
    configs = {name: resolve(optimizer=name, lr=1e-7 / 3, warmup_steps=2**40) for name in ("muon", "adam")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ngpt.identity.code_digest", lambda: "code")
        return {name: run_digest(config, "data")[:16] for name, config in configs.items()}


def test_a_run_has_the_same_id_on_every_version_of_python() -> None:
    assert {**STORED, **digests_of_configurations()} == STORED


@pytest.mark.parametrize(("one", "other"), [
    ("x = 1", "x = 1.0"), ("x = 1", "x = True"), ("f(None)", "f()"), ("f(a, *b)", "f(*b, a)"), ("x = 'a'", "x = b'a'"),
    ("x = f'{a}b'", "x = f'{a}' 'c'"), ("x = f'{a}'", "x = f'{a!r}'"),
    ("def f(*, a=None, b): 0", "def f(*, a, b=None): 0"),
    ("x = -1", "x = 1"), ("x = {**a, 1: 2}", "x = {1: 2, **a}"), ("a = b = c", "a = b, c"), ("f(x=None)", "f(x=0)"),
    ("import a", "import a as b"), ("x = ''", "x = '' if x else ''"), ("return x", "yield x"), ("x: int", "x: str"),
    ("x = [[1], 2]", "x = [1, [2]]"), ("x = 'a', 'b'", "x = 'a' 'b'"), ("x = f'{a}{b}'", "x = f'{a} {b}'"),
])  # fmt: skip
def test_other_code_reads_differently(one: str, other: str) -> None:
    inside = [f"def g():\n  {line}\n" for line in (one, other)]
    assert plain_code(inside[0].encode()) != plain_code(inside[1].encode())


def test_code_that_has_changed_since_it_was_loaded_is_refused(package: Path) -> None:
    module = code_of(package)
    AS_CODE["a statement"](package / "polar.py")
    with pytest.raises(InputError, match="has changed since this process started"):
        module.code_digest()
    assert code_of(package).code_digest() != code.code_digest()


def test_the_sources_are_looked_at_before_any_is_loaded() -> None:
    question = "import sys, ngpt.code; print(*(name for name in sys.modules if name.startswith('ngpt.')))"
    loaded = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {"ngpt.code", "ngpt.errors"}
    assert "import ngpt.code" in (PACKAGE / "__init__.py").read_text().split("\n\n")[2]


Change = Callable[[Path], object]


def edit(change: Callable[[str], str]) -> Change:
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


NOT_CODE: dict[str, Change] = {
    "a comment": edit(lambda text: "# a comment\n" + text.replace("\n\n", "\n\n# another\n", 1)),
    "documentation": edit(lambda text: text.replace('"""', '"""Other words: ', 1)),
    "formatting": edit(lambda text: text.replace("\n\n", "\n\n\n\n")),
    "a string in the middle": edit(lambda text: text + '\n"""A remark."""\n'),
}
AS_CODE: dict[str, Change] = {
    "a statement": edit(lambda text: text + "\nx = 1\n"),
    "a number": edit(lambda text: text + "\nf(1)\n"),
    "another name": lambda path: path.rename(path.with_name("renamed.py")),
    "one file less": Path.unlink,
}


@pytest.mark.parametrize("change", NOT_CODE)
def test_words_are_not_code(package: Path, change: str) -> None:
    for path in sorted(package.rglob("*.py")):
        NOT_CODE[change](path)
    assert digest_of(package) == code.code_digest()


PARTS = ["config.py", "registry.py", "sphere.py", "polar.py", "data/batches.py", "model/layers.py", "optim/muon.py",
         "training/trainer.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"),
    [*((name, "a statement") for name in PARTS), *(("optim/muon.py", change) for change in AS_CODE)],
)
def test_every_part_that_computes_counts(package: Path, name: str, change: str) -> None:
    AS_CODE[change](package / name)
    assert digest_of(package) != code.code_digest()


@pytest.mark.parametrize("name", ["data/another.py", "kernels/deep/another.py"])
def test_a_new_file_counts(package: Path, name: str) -> None:
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text("x = 2\n")
    assert digest_of(package) != code.code_digest()


def test_what_does_not_compute_does_not_count(package: Path) -> None:
    for name in (
        "command.py",
        "flags.py",
        "errors.py",
        "files.py",
        "identity.py",
        "code.py",
        "campaign/analysis/statistics.py",
        "__init__.py",
    ):
        AS_CODE["a statement"](package / name)
    assert digest_of(package) == code.code_digest()


def test_every_part_of_the_package_is_one_or_the_other() -> None:
    """A new part of the package has to be put on one of the two lists."""
    elsewhere = {
        "__init__.py",
        "errors.py",
        "files.py",
        "identity.py",
        "code.py",
        "machine.py",
        "refusals.py",
        "presets.py",  # a configuration's values are in the digest themselves
        "flags.py",
        "cost.py",
        "command.py",
        "doctor.py",
        "loading.py",
        "sample.py",
        "runs.py",
        "tracking.py",
        "trackers.py",
        "campaign",
    }
    elsewhere.add("__pycache__")
    assert {path.name for path in PACKAGE.iterdir()} - elsewhere <= set(CODE)


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps({**STORED, **digests_of_configurations()}, indent=1) + "\n", encoding="utf-8")
