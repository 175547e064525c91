"""The shape of the house: imports go one way, what needs no torch has none, files stay small, linters are content."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS: list[set[str]] = [
    {"ngpt.errors", "ngpt.machine"},
    {"ngpt.files", "ngpt.code"},
    {"ngpt.foreign"},
    {"ngpt.refusals", "ngpt.registry"},
    {"ngpt.config", "ngpt.sources"},
    {"ngpt.cost"},
    {"ngpt.presets"},
    {"ngpt.identity", "ngpt.flags", "ngpt.sphere", "ngpt.ranks", "ngpt.tracking"},
    {"ngpt.kernels"},
    {"ngpt.polar"},
    {"ngpt.data", "ngpt.model"},
    {"ngpt.optim"},
    {"ngpt.rules"},
    {"ngpt.training"},
    {"ngpt.command", "ngpt.loading", "ngpt.trackers"},
    {"ngpt.sample", "ngpt.runs", "ngpt.doctor"},
    {"ngpt.campaign.definition"},
    {"ngpt.campaign.execution"},
    {"ngpt.campaign.analysis"},
    {"ngpt.campaign.report", "ngpt.campaign.forecast"},
    {"ngpt.campaign.engine", "ngpt.campaign.standing"},
    {"ngpt.campaign.command", "ngpt.campaign.gates"},
    {"ngpt.campaign.untuned", "ngpt.campaign.entrant"},
    {"ngpt.campaign.sensitivity", "ngpt.campaign.transfer"},
    {"experiments"},
    {"runners", "train_architectural", "benchmarks"},
    {"experiments.regenerate_docs"},
]
"""A file may import from its own part and from the parts above it in this list; two parts on one line are peers.

Nobody imports `benchmarks` but the command that regenerates the documents.
"""

CAMPAIGN = [part for level in LEVELS for part in level if part.startswith("ngpt.campaign.")]

ONLY: dict[tuple[str, str], set[str]] = {
    ("ngpt.optim", "ngpt.model"): {"ngpt.model.roles"},
    **{(part, "ngpt.training"): {"ngpt.training.record"} for part in CAMPAIGN},
    ("ngpt.campaign.execution.options", "ngpt.training"): {"ngpt.training.preflight"},
    ("ngpt.campaign.engine", "ngpt.optim"): {"ngpt.optim.trial"},
    ("ngpt.campaign.engine", "ngpt.training"): {"ngpt.training.record", "ngpt.training.ahead"},
    ("ngpt.campaign.entrant", "ngpt.optim"): {"ngpt.optim.trial"},
    ("ngpt.campaign.entrant", "ngpt.training"): {"ngpt.training.record", "ngpt.training.trainer"},
    ("ngpt.campaign.execution.execute", "ngpt.training"): {"ngpt.training.record", "ngpt.training.worker"},
    ("ngpt.campaign.execution.launchers", "ngpt.training"): {
        "ngpt.training.ahead", "ngpt.training.record", "ngpt.training.worker",
    },
}
"""Where a part, or one file of it, may know another part only by some of its modules."""

WITHOUT_TORCH = [
    "ngpt.config", "ngpt.refusals", "ngpt.registry", "ngpt.foreign", "ngpt.sources", "ngpt.cost", "ngpt.presets",
    "ngpt.flags", "ngpt.identity", "ngpt.files", "ngpt.code", "ngpt.errors", "ngpt.command", "ngpt.runs",
    "ngpt.tracking", "ngpt.trackers", "ngpt.training.record", "ngpt.training.ahead", "ngpt.campaign.definition.plan",
    "ngpt.campaign.analysis.statistics", "ngpt.campaign.analysis.verdict", "ngpt.campaign.analysis.pace",
    "ngpt.campaign.report.markdown",    "ngpt.campaign.command", "ngpt.campaign.gates.command", "experiments",
]  # fmt: skip


def part_of(module: str) -> str | None:
    """The part of the project that a module belongs to; None for foreign modules and for the bare package."""
    parts = {part for level in LEVELS for part in level}
    return max((part for part in parts if module == part or module.startswith(part + ".")), key=len, default=None)


def imports(source: str, module: str, *, package: bool = False) -> Iterator[str]:
    """Every module that `source` imports anywhere, functions included, absolute and relative."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = module.split(".")[: None if package and node.level == 1 else (-node.level + package) or None]
                origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{name.name}" for name in node.names)


def arrows_up(source: str, module: str, *, package: bool = False) -> list[str]:
    """What is wrong with the imports of one file."""
    levels = {part: number for number, level in enumerate(LEVELS) for part in level}
    here = part_of(module)
    if module == "ngpt":  # what the package offers at its top
        offered = ("ngpt.optim", "ngpt.loading", "ngpt.code", None)
        return [f"ngpt imports {name}" for name in imports(source, module) if part_of(name) not in offered]
    if here is None:
        return [f"{module} is in no part"] if list(imports(source, module)) else []
    wrong = []
    for name in imports(source, module, package=package):
        there = part_of(name)
        if there is None and name.split(".")[0] == "ngpt":
            wrong.append(f"{module} imports {name}, which is in no part")
        elif there is not None and there != here:
            allowed = ONLY.get((module, there), ONLY.get((here, there)))
            known = allowed is None or any(name == one or name.startswith(one + ".") for one in allowed)
            if levels[there] >= levels[here] or not known:
                wrong.append(f"{module} imports {name}")
    return wrong


def sources() -> list[Path]:
    """The program's files."""
    folders = [ROOT / name for name in ("ngpt", "experiments", "runners", "benchmarks")]
    return [*sorted(path for folder in folders for path in folder.rglob("*.py")), ROOT / "train_architectural.py"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not arrows_up(source, module_of(path), package=path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("ngpt.polar", "import torch\nfrom ngpt import sphere\nfrom ngpt.config import Orthogonalizer", []),
        ("ngpt.optim.muon", "from ngpt.model.roles import Role\nfrom ngpt.optim import steps", []),
        ("ngpt.optim.muon", "from ngpt.model import roles", []),
        (
            "ngpt.optim.muon",
            "def f():\n    from . import steps\n    from .steps import decay\n    from ..polar import x",
            [],
        ),
        ("ngpt.campaign.definition.plan", "from ngpt.training.record import read_record\nimport ngpt.identity", []),
        ("ngpt.sphere", "from ngpt.polar import orthogonalize", ["ngpt.polar.orthogonalize"]),
        ("ngpt.data.corpus", "def f():\n    import ngpt.model.layers", ["ngpt.model.layers"]),
        ("ngpt.model.layers", "from ngpt.data import batches", ["ngpt.data.batches"]),
        ("ngpt.model.layers", "from ..training import trainer", ["ngpt.training.trainer"]),
        ("ngpt.optim.build", "from ngpt.model import build_model", ["ngpt.model.build_model"]),
        ("ngpt.optim.build", "from ngpt.model.layers import Linear", ["ngpt.model.layers.Linear"]),
        ("ngpt.campaign.definition.plan", "from ngpt.training.trainer import train", ["ngpt.training.trainer.train"]),
        ("ngpt.config", "import experiments.muon_lr_sweep", ["experiments.muon_lr_sweep"]),
        (
            "ngpt.campaign.definition.plan",
            "from ngpt.campaign.execution.execute import execute",
            ["ngpt.campaign.execution.execute.execute"],
        ),
        ("ngpt.campaign.execution.collect", "from ngpt.campaign import analysis", ["ngpt.campaign.analysis"]),
        ("ngpt.campaign.analysis.analyze", "import ngpt.campaign.report.figures", ["ngpt.campaign.report.figures"]),
        ("ngpt.campaign.report.index", "from ngpt.campaign.gates import judge", ["ngpt.campaign.gates.judge"]),
        ("ngpt.campaign.engine", "import ngpt.campaign.command", ["ngpt.campaign.command"]),
        ("ngpt.campaign.gates.command", "import ngpt.campaign.engine, ngpt.campaign.report.index", []),
        ("ngpt.campaign.command", "import ngpt.campaign.gates.judge", ["ngpt.campaign.gates.judge"]),
        ("ngpt.campaign.gates.judge", "from ngpt.training.step import Feed", ["ngpt.training.step.Feed"]),
        ("benchmarks.a", "from experiments import INDEX\nfrom ngpt.training.trainer import train", []),
        ("experiments.a", "from benchmarks.tables import b", ["benchmarks.tables.b"]),
        ("experiments.regenerate_docs", "from benchmarks.tables import b", []),
        ("runners.a", "from benchmarks.tables import b", ["benchmarks.tables.b"]),
        ("experiments.a", "from runners import b", ["runners.b"]),
        ("ngpt.files", "import ngpt", ["ngpt, which is in no part"]),
        ("ngpt.files", "from ngpt import extra", ["ngpt.extra, which is in no part"]),
    ],
)
def test_the_check_sees_what_it_must(module: str, source: str, wrong: list[str]) -> None:
    assert arrows_up(source, module) == [f"{module} imports {name}" for name in wrong]


def test_the_check_reads_packages_too() -> None:
    assert arrows_up("from .build import build_model", "ngpt.model", package=True) == []
    assert arrows_up("from ..data import corpus", "ngpt.model", package=True) == ["ngpt.model imports ngpt.data.corpus"]
    assert arrows_up("import json", "ngpt.extra") == ["ngpt.extra is in no part"]


def test_what_needs_no_torch_has_none() -> None:
    names = [*WITHOUT_TORCH, *(module_of(path) for path in (ROOT / "ngpt/data").glob("*.py"))]
    places = {name: ROOT / name.replace(".", "/") for name in names}
    there = [name for name, at in places.items() if at.with_suffix(".py").exists() or (at / "__init__.py").exists()]
    assert there == names, "none has moved away"
    code = f"import sys, {', '.join(names)}; print([m for m in ('torch', 'datasets', 'tiktoken') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", "found after the imports"


def test_no_file_is_long() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*sources(), *tests)}
    assert not {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 500}


@pytest.mark.parametrize("command", [["ruff", "check", "--no-cache", "."], ["mypy"]], ids=" ".join)
def test_the_linters_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
