"""Where a class that the user names comes from, and that what is recorded is what runs."""

import shutil
import sys
from pathlib import Path

import pytest
from test_foreign import RULES

import ngpt.rules
from ngpt.errors import InputError
from ngpt.foreign import load_class, origin_of
from ngpt.identity import run_id
from ngpt.presets import resolve


def identity(path: Path, name: str = "Good", **fields: object) -> str:
    origin_of.cache_clear()
    config = resolve("tiny", **{"optimizer": f"{path}:{name}", "lr": 0.1, **fields})
    return run_id(config, "data")


def test_the_source_of_a_class_is_its_identity_and_not_its_place(tmp_path: Path) -> None:
    """Comments do not count; the class, its arguments, and files beside it that it imports do."""
    for place in ("a", "b", "c", "d", "e"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "beside.py").write_text("FACTOR = 1\n")
        (tmp_path / place / "rule.py").write_text("import beside\n" + RULES)
    (tmp_path / "b" / "rule.py").write_text("import beside  # a comment\n\n\n" + RULES)
    (tmp_path / "b" / "other.py").write_text("FACTOR = 1\n")
    (tmp_path / "c" / "rule.py").write_text("import beside\n" + RULES.replace("1e-3", "1e-4"))
    (tmp_path / "d" / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "f" / "beside").mkdir(parents=True)
    (tmp_path / "f" / "rule.py").write_text("import beside\n" + RULES)
    (tmp_path / "f" / "beside" / "__init__.py").write_text("FACTOR = 1\n")
    shutil.move(tmp_path / "e" / "rule.py", tmp_path / "e" / "renamed.py")
    first = identity(tmp_path / "a" / "rule.py")
    assert identity(tmp_path / "b" / "rule.py") == first == identity(tmp_path / "e" / "renamed.py")
    others = [identity(tmp_path / place / "rule.py") for place in ("c", "d", "f")]
    others += [identity(tmp_path / "a" / "rule.py", "Ascending"), identity(tmp_path / "a" / "rule.py", lr=0.2)]
    others += [identity(tmp_path / "a" / "rule.py", optimizer_args="momentum=0.5")]
    assert len({first, *others}) == 7 and others[3].startswith("Ascending-")


def test_a_package_that_is_replaced_before_it_is_imported_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version, which is its identity, is read before its code is."""
    metadata = tmp_path / "replaced_rules-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: replaced_rules\nVersion: 1.0\n")
    (tmp_path / "replaced_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert origin_of("replaced_rules:Good").text.endswith("replaced_rules 1.0")
    metadata.write_text(metadata.read_text().replace("1.0", "2.0"))
    with pytest.raises(InputError, match=r"replaced_rules 1\.0 has changed since this process started"):
        load_class("replaced_rules:Good")


def test_a_file_runs_as_it_was_when_first_read_and_what_it_imports_must_not_change(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"factor_{place}.py").write_text("FACTOR = 1\n")
        (tmp_path / place / "rule.py").write_text(f"import factor_{place}\nNUMBER = 1\n" + RULES)
        origin_of(f"{tmp_path / place}/rule.py:Good")
    (tmp_path / "a" / "rule.py").write_text("import factor_a\nNUMBER = 2\n" + RULES)
    assert sys.modules[load_class(f"{tmp_path}/a/rule.py:Good").__module__].NUMBER == 1
    (tmp_path / "b" / "factor_b.py").write_text("FACTOR = 2\n")
    with pytest.raises(InputError, match="factor_b.py has changed since this process started"):
        load_class(f"{tmp_path}/b/rule.py:Good")


def in_package(folder: Path, rule: str, factor: int, beside: int) -> Path:
    """Write a package `lib` with a rule that needs another of its modules and one beside it; return the rule's file."""
    (folder / "lib" / "rules").mkdir(parents=True)
    for name in ("lib", "lib/rules"):
        (folder / name / "__init__.py").touch()
    (folder / "lib" / "tools.py").write_text(f"FACTOR = {factor}\n")
    (folder / "lib" / "rules" / "colorsys.py").write_text("raise AssertionError('Python has a module of this name')\n")
    (folder / "beside_lib.py").write_text(f"FACTOR = {beside}\n")
    path = folder / "lib" / "rules" / "good.py"
    path.write_text(f"import beside_lib\nimport colorsys\n{rule}\nNUMBER = FACTOR\n{RULES}")
    return path


@pytest.mark.parametrize("rule", ["from ..tools import FACTOR", "from lib.tools import FACTOR"])
def test_a_file_of_a_package_is_imported_as_its_module_and_stated_with_the_whole_package(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"a": (1, 1), "b": (1, 1), "c": (2, 1), "d": (1, 2)}
    paths = [in_package(tmp_path / place, rule, *factors) for place, factors in places.items()]
    first, same, *others = (identity(path) for path in paths)
    assert first == same and len({first, *others}) == 3
    for module in [name for name in sys.modules if name.partition(".")[0] in ("lib", "beside_lib", "colorsys")]:
        monkeypatch.delitem(sys.modules, module)
    kind = load_class(f"{paths[0]}:Good")
    assert kind.__module__ == "lib.rules.good" and sys.modules[kind.__module__].NUMBER == 1
    with pytest.raises(InputError, match="c/lib/rules/good.py: another package lib is loaded already"):
        load_class(f"{paths[2]}:Good")


def test_a_file_of_this_package_is_its_module() -> None:
    """Its code is stated by the code of the run."""
    optimizer = f"{Path(ngpt.rules.__file__).parent / 'kaon.py'}:Kaon"
    assert origin_of(optimizer).identity == "ngpt.rules.kaon:Kaon"
    assert load_class(optimizer) is ngpt.rules.Kaon
