"""The README's recipes work: a step option and a method are added in a copy, touching only the files they name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

FUNCTION = '''

def clip_entries(O: Tensor, limit: float) -> Tensor:
    """Return O with its entries clipped to [-limit, limit]."""
    return O.clamp(-limit, limit)
'''
LINE = '''    if o["clip_entries"] is not None:
        O = steps.clip_entries(O, o["clip_entries"])
'''
FIELD = '''    clip_entries: float | None = option(None, step=True)
    """clip the entries of Muon's update to this"""
'''
METHOD = '''        Method(name="clipped", fields={"optimizer": "muon", "clip_entries": 0.05}, lrs=MUON_RATES),
'''
RESIDUAL = '''

class UngatedResidual(nn.Module):
    """h <- N(h + a * (N(f) - h)), a a scalar that starts at alpha."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width = config.n_embd
        self.a = Scale(init=config.alpha, stored=config.alpha)

    def step_size(self) -> Tensor:
        """Return a, (D,)."""
        return self.a().expand(self.width)

    def forward(self, h_BTD: Tensor, f_BTD: Tensor) -> Tensor:
        """Step from h towards f, both (B, T, D); h is unit along D before and after."""
        return kernels.residual_step(h_BTD, f_BTD, self.step_size())
'''


def section(title: str, page: str = README) -> str:
    """The text of a section of a page."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", page, re.S | re.M)
    assert found is not None, title
    return found.group(1)


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, (path, before)
    path.write_text(content.replace(before, text + before), encoding="utf-8")


def run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}  # the copy's package, not an installed one
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_repository(folder: Path) -> Path:
    root = folder / "ngpt"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".*", "runs", "__pycache__"))
    return root


def changed_files(copy: Path) -> set[str]:
    files = [path for folder in ("ngpt", "tests", "experiments", "runners") for path in (ROOT / folder).rglob("*.*")]
    names = [path.relative_to(ROOT).as_posix() for path in files if path.is_file() and "__pycache__" not in path.parts]
    return {name for name in names if (ROOT / name).read_bytes() != (copy / name).read_bytes()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a new step option, made by the recipe."""
    root = copy_of_the_repository(tmp_path_factory.mktemp("copy"))
    steps, rule, config = (f"ngpt/{name}.py" for name in ("optim/steps", "optim/rule", "config"))
    recipe = section("Add a step option")
    assert all(name in recipe for name in (steps, rule, config))
    with (root / steps).open("a", encoding="utf-8") as file:
        file.write(FUNCTION)
    insert(root / rule, '    mask = steps.decay_mask(W, O) if o["cautious_wd"] else None\n', LINE)
    insert(root / config, "    weight_decay: float = ", FIELD)
    for golden in ("tests/test_command.py", "tests/test_identity.py"):  # they write the lists of flags and digests anew
        assert golden in recipe
        run(root, golden)
    return root


def test_the_recipe_names_every_file_that_changed(copy: Path) -> None:
    changed = changed_files(copy)
    assert len(changed) == 5 and all(name in section("Add a step option") for name in changed), changed
    checks = ["tests/test_command.py::test_the_flags_are_the_frozen_ones", "tests/test_refusals.py"]
    checks += ["tests/test_identity.py::test_a_run_has_the_same_id_on_every_version_of_python"]
    run(copy, "-m", "pytest", "-n", "0", *checks)


def test_a_new_step_option_is_a_flag_and_changes_the_step(copy: Path, tmp_path: Path) -> None:
    fixed = "--steps 3 --n-layer 1 --eval-tokens 512 --device cpu --threads 1 --no-progress --seed 1".split()
    digests = []
    for number, flags in enumerate(([], ["--clip-entries", "0.01"])):
        out = tmp_path / str(number)
        run(copy, "train_architectural.py", *flags, *fixed, "--out", str(out))
        (record,) = out.glob("*/record.json")
        digests.append(json.loads(record.read_text())["weights_sha256"]["final"])
    assert digests[0] != digests[1]
    assert "--clip-entries" in run(copy, "train_architectural.py", "--help")


def test_a_new_step_option_is_an_argument_of_simple_muon_and_refused_where_it_does_nothing(copy: Path) -> None:
    code = (
        "import torch\nfrom ngpt import SimpleMuon\nW = torch.nn.Parameter(torch.eye(4))\nW.grad = torch.ones(4, 4)\n"
        "SimpleMuon([W], lr=1.0, weight_decay=0.0, clip_entries=0.01).step()\n"
        "print(float((W.detach() - torch.eye(4)).abs().max()))"
    )
    assert float(run(copy, "-c", code)) == pytest.approx(0.01, rel=1e-3)
    command = [sys.executable, "train_architectural.py", "--optimizer", "adam", "--clip-entries", "0.1"]
    refused = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert refused.returncode == 2 and "--clip-entries has no effect with --optimizer adam" in refused.stderr


def test_a_new_method_is_a_line_of_an_experiment(copy: Path) -> None:
    experiment = "experiments/muon_lr_sweep.py"
    assert experiment in section("Add an experiment")
    content = (copy / experiment).read_text(encoding="utf-8")
    before = re.search(r'^ +Method\(name="Adam"', content, re.M)
    rates = re.search(r'Method\(name="Muon".*?lrs=([^)]*\)|\w+)', content, re.S)
    assert before is not None and rates is not None
    insert(copy / experiment, before.group(0), METHOD.replace("MUON_RATES", rates.group(1)))
    plan = run(copy, "runners/muon_lr_sweep.py", "--dry-run")
    assert "comparison  5 seeds of clipped" in plan and plan.count("clipped, lr") == 3 * 6


def test_a_new_model_is_a_flag_and_passes_the_tests_of_every_model(tmp_path: Path) -> None:
    root = copy_of_the_repository(tmp_path)
    with (root / "ngpt/model/layers.py").open("a", encoding="utf-8") as file:
        file.write(RESIDUAL)
    names = "model/sphere_transformer", "model/build", "cost"
    transformer, build, cost = (root / f"ngpt/{name}.py" for name in names)
    insert(transformer, ', "ngpt": PaperResidual}', ', "ungated": UngatedResidual')
    insert(transformer, "\n\nRESIDUALS", "\nfrom ngpt.model.layers import UngatedResidual")
    insert(build, '    "gpt": ControlTransformer,\n', '    "ungated": SphereTransformer,\n')
    insert(root / "ngpt/config.py", '"gpt", "gated-literal"]', '"ungated", ')
    insert(root / "ngpt/config.py", ')}\nON_SPHERE', ', "ungated"')
    insert(cost, '        "gpt": (2 * D, D),\n', '        "ungated": (2 + D + 2 * hidden, vocab_size),\n')
    run(root, "tests/test_command.py")
    recipe = section("Adding a model", (ROOT / "docs/method.md").read_text(encoding="utf-8"))
    changed = changed_files(root)
    assert len(changed) == 6 and all(name in recipe for name in changed), changed
    suites = re.findall(r"\(\.\./(tests/[^)]*)\)", recipe)
    assert len(suites) == 2
    assert "passed" in run(root, "-m", "pytest", "-n", "0", "-k", "ungated", *suites)
    fixed = "--steps 2 --eval-tokens 512 --device cpu --threads 1 --no-progress".split()
    run(root, "train_architectural.py", "--arch", "ungated", *fixed, "--out", str(tmp_path / "runs"))
    (record,) = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["config"]["model"]["arch"] == "ungated"


def test_the_package_exports_its_optimizer_and_imports_torch_only_then() -> None:
    code = (
        "import sys, ngpt\nassert 'torch' not in sys.modules\n"
        "from ngpt import LazyProjection, SimpleMuon\nprint('torch' in sys.modules)"
    )
    assert run(ROOT, "-c", code) == "True\n"
    assert "ImportError" in subprocess.run(
        [sys.executable, "-c", "from ngpt import Nothing"], cwd=ROOT, capture_output=True, text=True
    ).stderr
