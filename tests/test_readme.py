"""README, docs and reports say what is there: tree, links, commands, snippets, generated sections and reports."""

import io
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import INDEX, equal_time, gpt_control, muon_lr_sweep, scaling_ladder, sphere_finalists
from experiments.findings import (
    AT_155M,
    AT_RUNG_3,
    AT_RUNG_3_ON_ENGLISH,
    FEATURES,
    MUON_AGAINST_ADAM,
    ORTHOGONALITY,
    findings_list,
)
from experiments.longer_runs import longer_runs_sentence, longer_runs_table
from experiments.pooled import PAGE
from experiments.regenerate_docs import COMMAND, SECTIONS, regenerated
from ngpt import runs, sample
from ngpt.campaign.engine import Study
from ngpt.campaign.entrant import EntrantStudy
from ngpt.campaign.execution.collect import read_data, write_data
from ngpt.campaign.report.index import write_index
from ngpt.campaign.report.words import millions
from ngpt.command import build_parser, parse

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, CAMPAIGNS_PAGE = PAGES["README.md"], PAGES["docs/campaigns.md"]
BLOCKS = [block for text in PAGES.values() for block in re.findall(r"```bash\n(.*?)```", text, re.S)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
STATED = {"context_length", "muon_at_155m"}
"""Experiments that are stated and not yet carried out"""

PUBLISHED = [study for study in INDEX if study.name not in STATED]
PLACES = [place for study in INDEX for place in study.wherever_known(ROOT / "reports")]

RUNNERS = [*INDEX, EntrantStudy()]
"""What the scripts in `runners/` carry out"""

RUNNER = re.compile(r"python runners/(\w+)\.py([^`\n#&]*)")
"""A runner and its flags, in a block or in a sentence."""


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


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.split()) <= 1500
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in README] == []
    introductions = [text.split("\n\n")[1] for page, text in PAGES.items() if page != "README.md"]
    assert all(introduction.startswith("For ") for introduction in introductions), "a page begins with whom it is for"


def test_all_kinds_of_things_are_checked() -> None:
    assert sum(text.count("](") for text in PAGES.values()) > 50 and len(COMMANDS) > 20


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    folders = "ngpt|experiments|runners|benchmarks|tests|docs"
    named = re.findall(rf"(?<![\w/<])((?:{folders})/[\w/.]*\.(?:py|md))\b", PAGES[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_two_commands_install_and_run() -> None:
    first, second = BLOCKS[:2]  # README comes first
    assert first.count("\n") == second.count("\n") == 1
    assert "runners/muon_lr_sweep.py" in first and "pytest" in second and "'.[test]'" in second


@pytest.mark.parametrize("line", [line for line in COMMANDS if "train_architectural" in line])
def test_single_run_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    parse(words[words.index("train_architectural.py") + 1 :])


@pytest.mark.parametrize("command", [found for text in PAGES.values() for found in RUNNER.findall(text)], ids=" ".join)
def test_campaign_commands_parse(command: tuple[str, str]) -> None:
    name, flags = command
    (study,) = (study for study in RUNNERS if study.runner == name)
    study.parser().parse_args(shlex.split(flags))


def test_named_flags_exist() -> None:
    parsers = [build_parser(), runs.build_parser(), sample.build_parser(), *(study.parser() for study in RUNNERS)]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    for text in PAGES.values():
        prose = re.sub(r"<!-- (\w+): generated by .*?<!-- end of \1 -->", "", text, flags=re.S)
        spans = [span for span in re.findall(r"`([^`\n]+)`", prose) if "benchmarks/" not in span]
        named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
        assert named <= known, named - known


@pytest.mark.parametrize("page", PAGES)
def test_snippets_compile(page: str) -> None:
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", PAGES[page], re.S)):
        compile(snippet, f"{page}, snippet {number}", "exec")


def test_simple_muon_is_a_drop_in() -> None:
    """The snippet in README runs as it stands, learns, and keeps the matrices on the sphere where it projects."""
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 6
    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 16, bias=False), torch.nn.Tanh(), torch.nn.Linear(16, 8, bias=False)
    model = torch.nn.Sequential(*layers)
    matrices = list(model.parameters())
    x, y = torch.randn(64, 16), torch.randn(64, 8) / 10

    def loss_of(model: torch.nn.Module) -> torch.Tensor:
        return (model(x) - y).square().mean()

    names = {"matrices": matrices, "model": model, "loss_of": loss_of}
    before = loss_of(model).item()
    exec(snippet.replace("range(1, 101)", "range(1, 99)"), names)  # 98 steps: the last of them projects
    assert loss_of(model).item() < before
    assert all(torch.allclose(W.norm(dim=-1), torch.ones(len(W)), atol=1e-6) for W in matrices)


@pytest.mark.parametrize("page", [page for page in SECTIONS if page not in ("README.md", "docs/reports.md")])
def test_generated_sections_are_current(page: str) -> None:
    assert PAGES[page] == regenerated(page, PAGES[page]), COMMAND


@pytest.mark.parametrize("page", PAGES)
def test_every_generated_section_is_known(page: str) -> None:
    marked = re.findall(r"<!-- (\w+): generated by `(.*?)` -->", PAGES[page])
    assert marked == [(name, COMMAND) for name in SECTIONS.get(page, {})]


@pytest.mark.parametrize("study", INDEX, ids=lambda study: study.name)
def test_each_campaign_has_experiment_runner_and_report(study: Study[Any]) -> None:
    assert (ROOT / "experiments" / f"{study.name}.py").exists()
    (row,) = [line for line in CAMPAIGNS_PAGE.splitlines() if f"| `python runners/{study.name}.py` |" in line]
    assert ("no results yet" in row) == (not study.wherever_known(ROOT / "reports"))
    assert (ROOT / "runners" / f"{study.name}.py").exists()
    assert (ROOT / "reports" / study.experiment.report_name).exists() == (study in PUBLISHED)


@pytest.mark.parametrize("study", PLACES, ids=lambda study: study.name)
def test_published_reports_are_what_their_data_give(study: Study[Any], tmp_path: Path) -> None:
    """At every size and on every text."""
    (tmp_path / "data").mkdir()
    name = f"data/{study.name}.json"
    (tmp_path / name).write_bytes((ROOT / "reports" / name).read_bytes())
    rebuilt = study.report(tmp_path)[0].read_text(encoding="utf-8")
    published = (ROOT / "reports" / study.experiment.report_name).read_text(encoding="utf-8")
    assert rebuilt == published, "rebuild it: python runners/<name>.py --publish --report-only"


def test_the_index_lists_the_reports_that_are_there(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reports" / "data", tmp_path / "data")
    write_index(INDEX, tmp_path)
    assert (ROOT / "reports" / "README.md").read_text() == (tmp_path / "README.md").read_text(), COMMAND


@pytest.mark.parametrize("study", PLACES, ids=lambda study: study.name)
def test_what_an_experiment_says_of_its_results_is_in_its_report(study: Study[Any]) -> None:
    """It is left out where a run's budget or steps are not those that the file states."""
    said = [getattr(study.experiment, name, "") for name in ("reading", "does_not_show", "follows")]
    report = " ".join((ROOT / "reports" / study.experiment.report_name).read_text(encoding="utf-8").split())
    assert all(" ".join(text.split()) in report for text in said)


def test_findings_and_results_are_the_published_ones(tmp_path: Path) -> None:
    """Those committed: running a campaign changes `reports/`, not what is published."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what is published cannot be told from what was run here")
    pages = ["README.md", "docs/reports.md"]
    archive = subprocess.run(["git", "archive", "HEAD", *pages, "reports"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path, filter="data")
    for page in pages:
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert text == regenerated(page, text, tmp_path / "reports"), COMMAND


def test_findings_follow_the_verdicts_in_the_data(tmp_path: Path) -> None:
    campaign = MUON_AGAINST_ADAM
    data = read_data(campaign, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    seeds = sorted({row["seed"] for row in compared})
    losses = {(row["method"], row["seed"]): row["final_val_loss"] for row in compared}
    off = {seed: 0.09 + 0.01 * (-1) ** place for place, seed in enumerate(seeds)}
    for row in compared:
        row["lr"], row["aux_lr"] = 0.01, 0.005  # inside their grids, so that no edge takes the verdict
        row["final_val_loss"] = losses["Adam", row["seed"]] - (row["method"] == "Muon") * off[row["seed"]]
    write_data(tmp_path, data)
    found = findings_list(tmp_path)
    assert f"{millions(data['parameters'])}-parameter" in found
    mean = sum(off.values()) / len(off)
    assert "**At equal steps, Muon beats a tuned Adam.** It ends " in found
    assert f"It ends {mean:.3f} lower [" in found
    for row in compared:
        row["final_val_loss"] = losses["Adam", row["seed"]] + (row["method"] == "Muon") * off[row["seed"]]
    write_data(tmp_path, data)
    found = findings_list(tmp_path)
    assert "**At equal steps, Muon loses to a tuned Adam.** " in found and "| Muon against Adam |" not in found
    assert f"It ends {mean:.3f} higher" in found
    for row in compared:
        row["final_val_loss"] = losses["Adam", row["seed"]] + (row["method"] == "Muon") * (-1) ** row["seed"]
    write_data(tmp_path, data)
    found = findings_list(tmp_path)
    assert "**Whether Muon beats a tuned Adam at equal steps is open.** " in found and "[−" in found


def test_findings_end_with_the_same_differences_elsewhere(tmp_path: Path) -> None:
    """Muon minus Adam: 0.1 lower on 8 seeds of one campaign, 0.2 lower on 10 new ones and one seed again of another.

    Then the same on another text, where the first seeds alone have run.
    """
    data = read_data(MUON_AGAINST_ADAM, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    first = min(row["seed"] for row in compared)
    for row in compared:
        row["final_val_loss"] = 1.0 - (row["method"] == "Muon") * (0.1 + 0.01 * (-1) ** row["seed"])
    write_data(tmp_path, data)
    ladder = read_data(scaling_ladder.CAMPAIGN, ROOT / "reports")
    again = [row for row in ladder["runs"] if row["stage"] == "comparison"]
    for row in again:
        row["final_val_loss"] = 1.0 - (row["method"] == "Muon") * (0.2 + 0.01 * (-1) ** row["seed"])
    again += [{**row, "seed": first, "final_val_loss": 9.0} for row in again if row["seed"] == again[0]["seed"]]
    write_data(tmp_path, ladder | {"runs": ladder["runs"] + again})
    assert "| Muon against Adam |" not in findings_list(tmp_path)  # one place only: the bullets have said it
    write_data(tmp_path, {**data, "campaign": f"{MUON_AGAINST_ADAM.name}_on_english", "data": "English"})
    found = findings_list(tmp_path)
    mean = (8 * 0.1 + 10 * 0.2) / 18
    half = 2.1199 * 0.01 * (8 / 16 + 10 / 16) ** 0.5 / 18**0.5  # t of 16, around each campaign's own mean
    size = f"{millions(data['parameters'])} parameters"
    assert f"| | {size}, stdlib | {size}, English |\n|---|---|---|\n" in found and PAGE in found
    both = f"−{mean:.4f} [−{mean + half:.4f}, −{mean - half:.4f}]"
    assert f"| Muon against Adam | {both} | −0.1000 [−0.10" in found


def test_the_finding_on_a_gpt_follows_the_verdicts(tmp_path: Path) -> None:
    """Muon leads by 0.06 on nGPT, and by more, as much or less on the GPT."""
    data = read_data(gpt_control.CAMPAIGN, ROOT / "reports")
    for lead, says in ((0.12, "smaller on nGPT than"), (0.06, "the same on nGPT and"), (0.02, "larger on nGPT than")):
        ends = {"nGPT: Muon": 1.33, "GPT: Muon": 1.3, "nGPT: Adam": 1.39, "GPT: Adam": 1.3 + lead}
        for row in data["runs"]:
            if row["stage"] == "comparison":
                row["lr"], row["aux_lr"] = 0.01, 0.005  # inside their grids, so that no edge takes the verdict
                noise = 0.001 * (-1) ** row["seed"] * (row["method"] in ("nGPT: Muon", "GPT: Muon"))
                row["final_val_loss"] = ends.get(row["method"], 1.35) + noise
        write_data(tmp_path, data)
        found = findings_list(tmp_path)
        assert f"**Muon's lead over Adam is {says}" in found
        assert "On nGPT Muon ends 0.060 lower [0.059, 0.061], on a GPT " in found
        interval = f"[{lead - 0.001:.3f}, {lead + 0.001:.3f}]"
        assert f" {lead:.3f} lower {interval}, or 0.050 lower [0.049, 0.051] with Adam's beta1 0.9" in found


def test_the_finding_of_a_far_larger_model_follows_the_verdicts(tmp_path: Path) -> None:
    data = read_data(AT_155M, ROOT / "reports")
    for row in data["runs"]:
        loss = {"Muon": 5.0, "Adam, 0.001": 5.1}.get(row["method"], 5.2)
        row["final_val_loss"] = loss + 0.001 * (-1) ** row["seed"] * (row["method"] != "Muon")
    write_data(tmp_path, data)
    found = findings_list(tmp_path)
    assert "Muon at one rate leads Adam at 4 of 4 rates.** Mean differences: −0.200 to −0.100; no " in found
    for row in data["runs"]:
        if row["method"] == "Adam, 0.001":
            row["final_val_loss"] -= 0.2
    write_data(tmp_path, data)
    assert "leads Adam at 3 of 4 rates.** Mean differences: −0.200 to +0.10" in findings_list(tmp_path)
    data["runs"][0]["status"] = "killed"
    del data["runs"][0]["final_val_loss"]
    write_data(tmp_path, data)
    assert "; 24 of 25 runs; " in findings_list(tmp_path)


def test_the_finding_on_time_follows_the_verdicts(tmp_path: Path) -> None:
    data = read_data(equal_time.CAMPAIGN, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    adam = {row["seed"]: row["final_val_loss"] for row in compared if row["method"] == "Adam"}

    def found(muon: float) -> str:
        for row in compared:
            if row["method"] == "Muon":
                row["final_val_loss"] = adam[row["seed"]] + muon + 0.001 * (-1) ** row["seed"]
        write_data(tmp_path, data)
        return findings_list(tmp_path)

    ends = "**Given the same time on a CPU, with compiled steps, {}.** Muon ends "
    assert ends.format("Muon beats a tuned Adam") + "0.050 lower [0.049, 0.051]" in found(-0.05)
    assert ends.format("a tuned Adam beats Muon") + "0.050 higher [0.049, 0.051]" in found(0.05)
    assert ends.format("Muon and a tuned Adam end within 0.02") in found(0.001)
    assert ends.format("whether Muon beats a tuned Adam is open") in found(-0.0195)
    assert "30 s of training per run" in found(0.001)


def test_the_finding_on_features_follows_the_verdicts(tmp_path: Path) -> None:
    data = read_data(FEATURES, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    plain = {row["seed"]: row["final_val_loss"] for row in compared if row["method"] == "Newton-Schulz"}

    def found(normuon: float) -> str:
        for row in compared:
            off = {"NorMuon": normuon, "Newton-Schulz": 0.0}.get(row["method"], 0.002)
            noise = 0.001 * (-1) ** row["seed"] * (row["method"] != "Newton-Schulz")
            row["final_val_loss"] = plain[row["seed"]] + off + noise
        write_data(tmp_path, data)
        return findings_list(tmp_path)

    tried = "3 features of modded-nanogpt tried (cautious decay, NorMuon, Polar Express)"
    assert f"**None of the {tried} beats plain Muon by 0.01.**" in found(0.0)
    assert "Mean differences: −0.004 to +0.002 (" in found(-0.004)
    assert f"**Of the {tried}, 1 beats plain Muon by 0.01.**" in found(-0.03)


def test_the_finding_on_singular_values_follows_the_verdicts(tmp_path: Path) -> None:
    data = read_data(ORTHOGONALITY, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    muon = {row["seed"]: row["final_val_loss"] for row in compared if row["method"] == "Muon"}
    places = {seed: place for place, seed in enumerate(sorted(muon))}

    def found(kaon: float, others: float) -> str:
        for row in compared:
            row["lr"], row["aux_lr"] = 0.014, 0.005
            off = {"Muon": 0.0, "Kaon": kaon}.get(row["method"], others)
            spread = 0.001 * (-1) ** places[row["seed"]] * (row["method"] != "Muon")
            row["final_val_loss"] = muon[row["seed"]] + off + spread
        write_data(tmp_path, data)
        return findings_list(tmp_path)

    assert "singular values of Muon's update costs nothing that matters.** With" in found(0.005, 0.1)
    assert "ends 0.005 higher [0.0" in found(0.005, 0.1)
    assert "; Adam ends 0.100 higher [0." in found(0.005, 0.1)
    assert "update makes it worse.**" in found(0.04, 0.1)
    assert "update helps.**" in found(-0.04, 0.1)


def test_the_finding_on_the_field_follows_the_verdicts(tmp_path: Path) -> None:
    data = read_data(sphere_finalists.CAMPAIGN, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    muon = {row["seed"]: row["final_val_loss"] for row in compared if row["method"] == "Muon"}
    places = {seed: place for place, seed in enumerate(sorted(muon))}

    def found(soap: float, kaon: float, spread: float = 0.001) -> str:
        for row in compared:
            off = {"SOAP": soap, "Kaon": kaon}.get(row["method"], 0.0)
            noise = spread * ((-1) ** places[row["seed"]] + 0.1 * len(row["method"]) * (places[row["seed"]] % 3 - 1))
            row["final_val_loss"] = muon[row["seed"]] + off + noise * (row["method"] != "Muon")
        write_data(tmp_path, data)
        return findings_list(tmp_path)

    level = found(-0.004, 0.005)
    assert "**None of the 7 methods best in short runs beats Muon by 0.02 in longer ones.**" in level
    assert "Mean differences: −0.004 to +0.005 (" in level
    assert "**Of the 7 methods best in short runs, 1 beats Muon by 0.02" in found(-0.05, 0.0)
    assert "; 1 is worse (" in found(0.0, 0.05)
    assert "methods best in short runs is shown to beat Muon by 0.02 in longer" in found(0.0, 0.0, spread=0.05)


def test_the_finding_at_a_third_size_has_the_other_text_too(tmp_path: Path) -> None:
    for campaign in (AT_RUNG_3, AT_RUNG_3_ON_ENGLISH):
        write_data(tmp_path, read_data(campaign, ROOT / "reports"))
    data = read_data(AT_RUNG_3_ON_ENGLISH, ROOT / "reports")
    assert "; on English 0.043 lower [" in findings_list(tmp_path)
    losses = {(row["method"], row["seed"]): row["final_val_loss"] for row in data["runs"]}
    for row in data["runs"]:
        row["final_val_loss"] = losses["Adam", row["seed"]] + 1e-4 * (row["method"] == "Muon") * (-1) ** row["seed"]
    write_data(tmp_path, data)
    assert "; on English no difference that matters, level [" in findings_list(tmp_path)
    data["runs"][0]["status"] = "running"
    write_data(tmp_path, data)
    assert "; on English" not in findings_list(tmp_path)


def test_what_longer_runs_changed_follows_both_data(tmp_path: Path) -> None:
    """Muon's lead over Adam is there again, then larger, then gone."""
    short, long = muon_lr_sweep.CAMPAIGN, MUON_AGAINST_ADAM
    write_data(tmp_path, read_data(short, ROOT / "reports"))
    assert longer_runs_sentence(tmp_path) == "" and longer_runs_table(tmp_path).count("\n") == 2
    data = read_data(long, ROOT / "reports")
    compared = [row for row in data["runs"] if row["stage"] == "comparison"]
    losses = {(row["method"], row["seed"]): row["final_val_loss"] for row in compared}
    for lead, smaller, gone in ((0.05, "All 1", 0), (0.5, "0 of 1", 0), (0.0, "All 1", 1)):
        for row in compared:
            row["lr"], row["aux_lr"] = 0.01, 0.005  # inside their grids, so that no edge takes the verdict
            noise = 0.001 * (-1) ** row["seed"]
            row["final_val_loss"] = losses["Adam", row["seed"]] - (row["method"] == "Muon") * (lead + noise)
        write_data(tmp_path, data)
        said = longer_runs_sentence(tmp_path)
        assert said.startswith(f"**{smaller} differences found in short runs are smaller in longer ones")
        assert said.startswith(": 1 no longer matters.**", said.index("ones") + 4) == bool(gone)
        (row,) = longer_runs_table(tmp_path).splitlines()[2:]
        word = "no difference that matters" if gone else "better"
        assert f"(../reports/{short.report_name}), −0.15" in row
        assert f"[**{word}**](../reports/{long.report_name})" in row
    for row in compared:
        lag = (row["method"] == "Muon") * (0.05 + 0.001 * (-1) ** row["seed"])
        row["final_val_loss"] = losses["Adam", row["seed"]] + lag
    write_data(tmp_path, data)
    assert ": 1 is the other way round.**" in longer_runs_sentence(tmp_path)
    compared[0]["status"] = "running"
    write_data(tmp_path, data)
    assert longer_runs_sentence(tmp_path) == "", "it may still change"
