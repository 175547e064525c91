"""Optimizers of classes that the user names: refused where they cannot train, and otherwise like the built-in ones."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import ROOT, killed, outcome, small, start
from torch import Tensor
from torch.testing import assert_close

from ngpt.command import parse
from ngpt.doctor import examine
from ngpt.errors import InputError
from ngpt.flags import to_flags
from ngpt.foreign import arguments_of, canonical, is_class, load_class
from ngpt.loading import load_run
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.optim.trial import along_the_gradient, refusal
from ngpt.presets import resolve
from ngpt.training.record import read_metrics

RULES = '''
import gc
import random
import time
import numpy
import torch
from torch.optim import Optimizer


class Good(Optimizer):
    """A sign of the momentum, with state of several kinds."""

    def __init__(self, params, lr, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum, "count": 0})

    def direction(self, W, M, group):
        return M.sign()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["count"] += 1
            for W in group["params"]:
                state = self.state[W]
                if not state:
                    state |= {"pair": [torch.zeros_like(W), 0], "half": torch.zeros_like(W, dtype=torch.bfloat16),
                              "seen": {1, "a"}, "pickled": bytes([0, 255])}
                M, _ = state["pair"]
                assert state["pickled"] == bytes([0, 255])
                state["pair"][1] += 1
                M.lerp_(W.grad, 1 - group["momentum"])
                state["half"] += W.grad.bfloat16()
                W -= group["lr"] * self.direction(W, M, group) / W.shape[group["sphere_dim"]] ** 0.5
                W -= 1e-3 * group["lr"] * state["half"].float().sign() / state["pair"][1]


class Ascending(Good):
    def direction(self, W, M, group):
        return -M.sign()


class Idle(Good):
    def step(self):
        pass


class Dropping(Good):
    def step(self):
        super().step()
        for group in self.param_groups:
            for W in group["params"]:
                W.grad.zero_()
                W.grad = None


class Closure(Good):
    def step(self, closure):
        super().step()


class Random(Good):
    def direction(self, W, M, group):
        return torch.randn(W.shape) * random.random() + numpy.random.rand()


class Clock(Good):
    def direction(self, W, M, group):
        return M.sign() * (1 + time.perf_counter_ns() % 1000)


class HiddenState(Good):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.beside = {}

    def direction(self, W, M, group):
        self.beside[W] = 0.5 * self.beside.get(W, 0) + M
        return self.beside[W]


class KeptRate(Good):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.lr = lr

    def step(self):
        for group in self.param_groups:
            group["lr"] = self.lr
        super().step()


class Unsavable(Good):
    def step(self):
        super().step()
        self.state[self.param_groups[0]["params"][0]]["seen"] = object()


class Reshaping(Good):
    @torch.no_grad()
    def step(self):
        super().step()
        for group in self.param_groups:
            for W in group["params"]:
                W.data = W.data.flatten()


class Infinite(Good):
    def direction(self, W, M, group):
        return M / 0


class Modes(Good):
    def train(self): ...
    def eval(self): ...


class Promising(Good):
    stays_on_sphere = True


class Seldom(Good):
    """Moves another way every tenth step, by a counter that it does not save."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.calls = 0

    def step(self):
        self.calls += 1
        super().step()
        if self.calls % 10 == 0:
            super().step()


SKETCH = []


class ModuleState(Good):
    def direction(self, W, M, group):
        if not SKETCH:
            SKETCH.append(torch.randn(()))
        return M.sign() * SKETCH[0]


class Shared(Good):
    """Keeps a view of the weights, text, and low precision inside a list."""

    def step(self):
        super().step()
        for group in self.param_groups:
            for W in group["params"]:
                self.state[W] |= {"view": W.detach(), "mode": "fast"}
                low = self.state[W].setdefault("low", [torch.zeros(W.shape, dtype=torch.bfloat16).t()])
                low[0] += W.grad.t().bfloat16()
                W.data -= 1e-2 * group["lr"] * low[0].t().float().sign()


class Stubborn(Good):
    """Turns by an angle of its own, and raises in the end."""

    def step(self):
        for group in self.param_groups:
            group["lr"] = group["lr"] * 0.5
        super().step()


class Breaking(Good):
    def step(self):
        super().step()
        if 32 in self.param_groups[0]["params"][0].shape:
            raise ZeroDivisionError("in the middle")


class Leaving(Good):
    def step(self):
        super().step()
        if 32 in self.param_groups[0]["params"][0].shape:
            raise SystemExit(0)


class Widening(Good):
    def step(self):
        super().step()
        if 32 in self.param_groups[0]["params"][0].shape:
            for W in self.param_groups[0]["params"]:
                W.data = W.data.double()


class Flat(Good):
    def __init__(self, params, lr):
        super().__init__([W for group in params for W in group["params"]], lr)
        for group in self.param_groups:
            group["sphere_dim"] = -1
            del group["lr"]


class Greedy(Good):
    def step(self):
        super().step()
        mine = {id(W): W.shape for group in self.param_groups for W in group["params"]}
        in_a_run = any(32 in shape for shape in mine.values())  # the trial's matrices have other shapes
        for other in gc.get_objects() if in_a_run else ():
            if type(other) is torch.nn.Parameter and id(other) not in mine and other.shape[-1:] == (32,):
                other.data.mul_(0.5)


class OnSphere(Good):
    stays_on_sphere = True

    @torch.no_grad()
    def step(self):
        super().step()
        for group in self.param_groups:
            for W in group["params"]:
                W /= W.norm(dim=group["sphere_dim"], keepdim=True)


NotAnOptimizer = dict
'''


@pytest.fixture
def rules(tmp_path: Path) -> str:
    """The path of the file with the classes."""
    path = tmp_path / "my_rules.py"
    path.write_text(RULES)
    return str(path)


# --- the trial -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Good", None),
        ("OnSphere", None),
        ("Ascending", None),  # that is for a campaign to show
        ("Idle", r"26 steps leave a matrix of \(96, 64\) as it was"),
        ("Closure", r"its step\(\) fails: TypeError: .*closure"),
        ("Random", None),
        ("Clock", "equal steps from equal states differ"),
        ("HiddenState", r"does not go on from its state_dict\(\) to the bit: some of its state is kept elsewhere"),
        ("KeptRate", r'does not read group\["lr"\] at every step'),
        ("Unsavable", r"cannot be saved as tensors and plain values: .*\['seen'\] is a builtins.object"),
        ("Reshaping", "its step|turns a matrix of"),
        ("Infinite", "is not finite"),
        ("Promising", r"it says stays_on_sphere, and after 26 steps"),
        ("Seldom", r"some of its state is kept elsewhere"),
        ("ModuleState", r"some of its state is kept elsewhere"),
        ("Shared", None),
        ("Stubborn", None),
        ("Modes", r"has methods train and eval"),
    ],
)
def test_what_cannot_train_is_refused_for_the_right_reason(rules: str, name: str, reason: str | None) -> None:
    random = torch.get_rng_state()
    found = refusal(f"{rules}:{name}", 0.01, "")
    assert torch.get_rng_state().equal(random)
    if reason is None:
        assert found is None
    else:
        assert found is not None and re.search(reason, found), found


@pytest.mark.parametrize("name", ["SGD", "Muon", "Adafactor", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "ASGD"])
def test_the_optimizers_of_pytorch_pass(name: str) -> None:
    assert refusal(f"torch.optim:{name}", 0.01, "") is None
    assert along_the_gradient(f"torch.optim:{name}", 0.01, "") < -0.3


def test_a_rule_that_ascends_goes_along_the_gradient(rules: str) -> None:
    assert along_the_gradient(f"{rules}:Ascending", 0.01, "") > 0.5
    for name in ("Good", "Dropping"):
        assert along_the_gradient(f"{rules}:{name}", 0.01, "") < -0.5


@pytest.mark.parametrize(
    ("optimizer", "arguments", "reason"),
    [
        ("torch.optim:LBFGS", "", "LBFGS doesn't support per-parameter options"),
        ("torch.optim:SGD", "momentun=0.9", "unexpected keyword argument 'momentun'"),
        ("torch.optim:SGD", "momentum=fast", "with --optimizer-args momentum=fast: TypeError"),
        ("torch.optim:Nothing", "", "there is no Nothing in torch.optim"),
        ("torch.nn:Linear", "", "Linear is not a subclass of torch.optim.Optimizer"),
        ("no_such_package:Rule", "", "no package no_such_package is installed"),
        ("no_such_file.py:Rule", "", "no such file: no_such_file.py"),
        ("json:JSONDecoder", "", "json is not an installed package with a version; name the file"),
    ],
)
def test_what_cannot_be_built_says_why(optimizer: str, arguments: str, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)):
        refusal(optimizer, 0.01, arguments)


def test_a_file_that_cannot_be_read_is_named_with_its_line(rules: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have no rate lr"):
        refusal(f"{rules}:Flat", 0.01, "")
    with pytest.raises(InputError, match="NotAnOptimizer is not a subclass"):
        load_class(f"{rules}:NotAnOptimizer")
    bad = {"x = (\n": "line 1: ", "import torch\n1 / 0\n": "line 2: ZeroDivisionError: division by zero",
           "import no_such_module\n": "No module named 'no_such_module'",
           "import sys\nsys.exit(3)\n": "line 2: SystemExit: 3", "x = '\0'\n": "null byte"}  # fmt: skip
    for text, reason in bad.items():
        path = tmp_path / f"bad{len(text)}.py"
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            load_class(f"{path}:Rule")


# --- runs ------------------------------------------------------------------------------------------------------------


def test_pytorchs_muon_as_a_class_has_the_bits_of_the_built_in_one(data: str, tmp_path: Path) -> None:
    built_in = small(data, optimizer="muon", polar_dtype="bfloat16", steps=6)
    as_class = small(data, optimizer="torch.optim:Muon", optimizer_args="weight_decay=0.0", steps=6)
    records = [start(config, tmp_path / "runs")[1] for config in (built_in, as_class)]
    assert records[0].weights_sha256 == records[1].weights_sha256
    assert records[1].optimizer_origin is not None and "torch.optim:Muon of torch" in records[1].optimizer_origin
    assert records[0].optimizer_origin is None


@pytest.mark.parametrize(
    "optimizer", [*("Good", "Random", "Shared", "Dropping"), "torch.optim:Adafactor", "torch.optim:Muon"]
)
def test_killed_and_resumed_it_ends_in_the_same_bits(
    data: str, tmp_path: Path, rules: str, optimizer: str
) -> None:
    config = small(data, optimizer=optimizer if is_class(optimizer) else f"{rules}:{optimizer}")
    undisturbed = outcome(start(config, tmp_path / "undisturbed")[0])
    folder = killed(config, tmp_path / "runs")
    assert start(config, tmp_path / "runs", resume=True)[0] == folder
    assert outcome(folder) == undisturbed


def test_the_schedule_and_the_projection_reach_it(data: str, tmp_path: Path, rules: str) -> None:
    """Both change the weights, and these end on the sphere."""

    def hidden(name: str, **more: Any) -> list[Tensor]:
        config = small(data, optimizer=f"{rules}:{name}", **more)
        folder, record = start(config, tmp_path / "runs")
        assert record.status == "done" and record.run_id.startswith(f"{name}-")
        model = load_run(folder).model
        specs = parameter_specs(model)
        found = [(W.detach(), specs[key]) for key, W in model.named_parameters() if specs[key].role == Role.HIDDEN]
        for W, spec in found:
            assert spec.sphere_dim is not None
            assert_close(W.norm(dim=spec.sphere_dim), torch.ones_like(W.norm(dim=spec.sphere_dim)))
        return [W for W, _ in found]

    def equal(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    linear = {"schedule": "linear", "lazy_proj_freq": 5}
    for name in ("OnSphere", "Good"):
        assert not equal(hidden(name, **linear), hidden(name, schedule="constant", lazy_proj_freq=5)), "the schedule"
    assert not equal(hidden("Good", **linear), hidden("Good", schedule="linear", lazy_proj_freq=3)), "the projection"


def test_one_that_moves_other_parameters_is_stopped(data: str, tmp_path: Path, rules: str) -> None:
    with pytest.raises(InputError, match="it moves parameters that it was not given"):
        start(small(data, optimizer=f"{rules}:Greedy"), tmp_path / "runs")


def test_one_that_raises_in_a_run_is_named_with_its_line(data: str, tmp_path: Path, rules: str) -> None:
    reason = r"Breaking: its step\(\) fails: .*my_rules.py, line \d+: ZeroDivisionError: in the middle"
    with pytest.raises(InputError, match=reason):
        start(small(data, optimizer=f"{rules}:Breaking"), tmp_path / "runs")


def test_one_that_ends_the_process_does_not(data: str, tmp_path: Path, rules: str) -> None:
    with pytest.raises(InputError, match=r"Leaving: its step\(\) fails: .*line \d+: SystemExit: 0"):
        start(small(data, optimizer=f"{rules}:Leaving"), tmp_path / "runs")


def test_one_that_changes_the_dtype_of_a_matrix_is_stopped(data: str, tmp_path: Path, rules: str) -> None:
    with pytest.raises(InputError, match="Widening: it changes the shape or dtype of a matrix"):
        start(small(data, optimizer=f"{rules}:Widening"), tmp_path / "runs")


def test_one_that_is_refused_leaves_no_folder(data: str, tmp_path: Path, rules: str) -> None:
    with pytest.raises(InputError, match="some of its state is kept elsewhere"):
        start(small(data, optimizer=f"{rules}:HiddenState"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_template_trains(data: str, tmp_path: Path) -> None:
    """It rotates its vectors by about the rate, in radians, and descends."""
    template = "examples/my_rule.py:MyRule"
    assert refusal(template, 0.01, "momentum=0.9") is None and along_the_gradient(template, 0.01, "") < -0.3
    config = small(data, optimizer=template, optimizer_args="momentum=0.9", steps=60, telemetry_every=59, lr=0.02)
    folder, record = start(config, tmp_path)
    rows = read_metrics(folder)
    assert record.status == "done" and rows[-1]["loss"] < rows[0]["loss"] - 0.5
    angles = [row["rotation_hidden_rad"] for row in rows if "rotation_hidden_rad" in row]
    assert angles and all(0.3 * 0.02 < angle < 1.1 * 0.02 for angle in angles)


@pytest.mark.parametrize("arch", ["gated-ngpt", "gpt"])
def test_a_class_gets_the_dimensions_that_its_page_names(arch: Any) -> None:
    config = resolve("tiny", arch=arch, optimizer="torch.optim:SGD", lr=0.1)
    groups = build_optimizers(build_model(config.model, 17, seed=0), config).hidden.param_groups
    assert [group["sphere_dim"] for group in groups] == ([-1, -2] if arch == "gated-ngpt" else [None])


def test_a_sound_run_of_a_class_is_sound_to_the_doctor(data: str, tmp_path: Path) -> None:
    folder, _ = start(small(data, optimizer="ngpt.rules:Kaon"), tmp_path)
    assert examine(folder)[1:] == ([], [])


def test_the_short_form_of_the_page_trains(data: str, tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your_optimizer.md").read_text(), re.S)
    path = tmp_path / "short.py"
    path.write_text(snippet)
    short = f"{path}:PowerMomentum"
    assert refusal(short, 0.01, "") is None and along_the_gradient(short, 0.01, "") < -0.3
    rows = read_metrics(start(small(data, optimizer=short, steps=60, lr=0.02), tmp_path / "runs")[0])
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


@pytest.mark.parametrize("optimizer", ["Good", "OnSphere", "Stubborn", "adam", "torch.optim:SGD"])
def test_with_equal_angles_every_optimizer_turns_vectors_by_the_rate(
    data: str, tmp_path: Path, rules: str, optimizer: str
) -> None:
    """And is still on the sphere at the end, resumes to the bit, and moves by no other length."""
    name = optimizer if optimizer == "adam" or is_class(optimizer) else f"{rules}:{optimizer}"
    config = small(data, optimizer=name, match_step="angle", lr=0.01, telemetry_every=1)
    folder, record = start(config, tmp_path / "undisturbed")
    angles = [row["rotation_hidden_rad"] for row in read_metrics(folder)]
    assert len(angles) == 12 and angles == pytest.approx([0.01] * 12, rel=5e-3)
    again = killed(config, tmp_path / "runs")
    start(config, tmp_path / "runs", resume=True)
    assert outcome(again) == outcome(folder)


# --- flags and identity ----------------------------------------------------------------------------------------------


def test_arguments_are_python_literals_or_words() -> None:
    text = "betas=(0.9,0.95) mode=fast nesterov=True eps=1e-8 name='a'"
    expected = {"betas": (0.9, 0.95), "mode": "fast", "nesterov": True, "eps": 1e-8, "name": "a"}
    assert arguments_of(text) == (expected, {}) == arguments_of(canonical(text))
    assert canonical("a='1'") == "a='1'" and canonical("a=1") == "a=1" and canonical("a='b'") == canonical("a=b")
    assert arguments_of("a=1 group.a=2") == ({"a": 1}, {"a": 2})
    assert canonical("b=1. a=.5") == canonical("a=0.50   b=1.0") == "a=0.5 b=1.0"
    bad = {"a": "takes key=value", "a=1 a=2": "gives a twice", "lr=1": "the rate is given by --lr",
           "group.lr=1": "the rate is given by --lr", "a={1,2}": "a set has no order"}  # fmt: skip
    for wrong, reason in bad.items():
        with pytest.raises(InputError, match=reason):
            canonical(wrong)


def test_a_class_goes_through_the_command_line_and_back() -> None:
    words = "--optimizer torch.optim:SGD --lr 0.1 --optimizer-args nesterov=True momentum=.9 --seed 3".split()
    config, _ = parse(words)
    assert config.optim.optimizer_args == "momentum=0.9 nesterov=True"
    assert parse(to_flags(config))[0] == config


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"optimizer": "torch.optim:SGD"}, "has no default rate: give --lr"),
        ({"optimizer": "torch.optim"}, "must be adam, muon, module:Class or file.py:Class"),
        ({"optimizer": "muon", "optimizer_args": "a=1"}, "--optimizer-args has no effect with --optimizer muon"),
        ({"optimizer": "torch.optim:SGD", "lr": 0.1, "weight_decay": 0.1}, "--weight-decay has no effect with"),
        ({"optimizer": "torch.optim:SGD", "lr": 0.1, "match_step": "rms"}, "rms has no effect with --optimizer torch"),
        ({"optimizer": "adam", "match_step": "rms"}, "--match-step angle has one"),
        ({"optimizer": "torch.optim:SGD", "lr": 0.1, "momentum": 0.9}, "--momentum has no effect with"),
        ({"optimizer": "torch.optim:SGD", "lr": 0.1, "geodesic_muon": "lr"}, "--geodesic-muon has no effect with"),
    ],
)
def test_flags_that_do_not_go_with_a_class(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        resolve("tiny", **fields)
