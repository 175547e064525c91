"""README and reports say what is there: tree, commands, generated tables and generated reports."""

import io
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiments import INDEX
from experiments.__main__ import readme_with_sections, scaling_with_sections
from ngpt.campaign.definition import Campaign
from ngpt.campaign.gates.definition import Gates
from ngpt.campaign.gates.report import read_gates_data, write_gates_report
from ngpt.campaign.index import write_index
from ngpt.campaign.report import write_report
from ngpt.command import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
DOCS_BLOCKS = re.findall(r"```bash\n(.*?)```", SCALING, re.S)


def test_the_tree_is_the_repository() -> None:
    tree = re.search(r"```\n(train_architectural.*?)```", README, re.S)
    assert tree is not None
    folder, named = "", set()
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        named.add(folder + name)
        folder = name if not line.startswith(" ") else folder
    present = {p.name + "/" * p.is_dir() for p in ROOT.iterdir()} | {
        f"ngpt/{p.name}" + "/" * p.is_dir() for p in (ROOT / "ngpt").iterdir()
    }
    assert named <= present, named - present
    unnamed = {
        name for name in present if name.startswith("ngpt/") and not name.endswith(("__pycache__/", "__init__.py"))
    }
    assert unnamed <= named, f"not in the README's tree: {unnamed - named}"


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_two_commands_install_and_run() -> None:
    first, second = BLOCKS[:2]
    assert first.count("\n") == second.count("\n") == 1
    assert "runners/muon_lr_sweep.py" in first and "pytest" in second and "'.[test]'" in second


@pytest.mark.parametrize(
    "line",
    [line for block in BLOCKS + DOCS_BLOCKS for line in block.splitlines() if "train_architectural" in line],
)
def test_single_run_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    parse(words[words.index("train_architectural.py") + 1 :])


def test_the_tables_on_scaling_are_what_formulas_and_measurements_give() -> None:
    assert SCALING == scaling_with_sections(SCALING), "python -m experiments"
    assert all((ROOT / "runners" / name).exists() for name in re.findall(r"runners/(\w+\.py)", SCALING))


@pytest.mark.parametrize("campaign", INDEX, ids=lambda campaign: campaign.name)
def test_each_campaign_has_experiment_runner_and_report(campaign: Campaign | Gates) -> None:
    assert (ROOT / "experiments" / f"{campaign.name}.py").exists()
    assert f"`python runners/{campaign.name}.py`" in README
    assert (ROOT / "runners" / f"{campaign.name}.py").exists()
    assert (ROOT / "reports" / campaign.report_name).exists()


@pytest.mark.parametrize("campaign", INDEX, ids=lambda campaign: campaign.name)
def test_published_reports_are_what_their_data_give(campaign: Campaign | Gates, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    name = f"data/{campaign.name}.json"
    (tmp_path / name).write_bytes((ROOT / "reports" / name).read_bytes())
    if isinstance(campaign, Gates):
        path, _ = write_gates_report(campaign, read_gates_data(campaign, tmp_path), tmp_path)
    else:
        path, _ = write_report(campaign, tmp_path)
    published = (ROOT / "reports" / campaign.report_name).read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8") == published, "rebuild it: python runners/<name>.py --report-only"


def test_the_index_lists_the_reports_that_are_there(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reports" / "data", tmp_path / "data")
    write_index(INDEX, tmp_path)
    assert (ROOT / "reports" / "README.md").read_text() == (tmp_path / "README.md").read_text(), "python -m experiments"


def test_the_readme_gives_the_published_results(tmp_path: Path) -> None:
    """Those committed: running a campaign changes `reports/`, not what is published."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what is published cannot be told from what was run here")
    archive = subprocess.run(
        ["git", "archive", "HEAD", "README.md", "reports"], cwd=ROOT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path, filter="data")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme == readme_with_sections(readme, tmp_path / "reports"), "python -m experiments"
