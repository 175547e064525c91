"""A campaign around one optimizer of the user's: against tuned opponents, with checks of the class itself. No torch.

`runners/try_optimizer.py` is its runner. The entrant and its opponents are tuned over grids of one size, which lie at
the same angles: unless --lrs is given, a few steps measure how far the entrant turns a vector at a small rate, and its
rates are those at which it turns them as far as Muon does at its own.
"""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
import dataclasses
import itertools
import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Contrast, Method, Rule, noise_of, on_other_batches
from ngpt.campaign.definition.experiment import slug
from ngpt.campaign.definition.plan import Plan, PlannedRun
from ngpt.campaign.engine import try_classes
from ngpt.campaign.execution.collect import data_path
from ngpt.campaign.execution.execute import Outcome
from ngpt.campaign.execution.known import is_finished
from ngpt.campaign.execution.options import add_campaign_flags, common_parser, device_settings, overrides_of
from ngpt.command import Parser
from ngpt.config import Constraint, RunConfig
from ngpt.errors import InputError, require
from ngpt.files import read_json
from ngpt.foreign import canonical, claims, failure, is_class, origin_of
from ngpt.presets import resolve
from ngpt.registry import OPTIMIZERS

OPPONENTS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon"},
    "geodesic-muon": {"optimizer": "muon", "geodesic_muon": "lr-norm"},
    "normuon": {"optimizer": "muon", "normuon": "short-axis"},
    "adam": {"optimizer": "adam"},
}
"""Configuration fields by name, as --against takes them beside classes"""

SHOWN = {"muon": "Muon", "geodesic-muon": "geodesic Muon", "normuon": "NorMuon", "adam": "Adam"}

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""A grid of hidden rates, as multiples of its middle: for an opponent, the preset's default"""

AUX_LRS = (0.0025, 0.005, 0.01, 0.02)
"""Grid of the auxiliary rate"""

CLAIM = """
    The hidden matrices of gated nGPT are moved by `{name}` ({origin}), with {arguments}, or by an opponent. Everything
    else is moved by AdamW at a rate of its own, the auxiliary rate, and all rates fall linearly to zero. Each method is
    tuned over its hidden rate, then over the auxiliary rate, with the same number of runs on the same seeds, and
    compared at its chosen rates on other seeds.

    *Other batches* runs {baseline} again at its chosen rates, from the same initialization, on the data in another
    order: the difference shows the size of noise.{equal}

    No prediction was made.
"""

DOES_NOT_SHOW = """That the answers hold at another size, on another text or after longer training, or that other values
    of the arguments of {name} would do no better."""

FOLLOWS = {
    True: "`tiny` is a quick look. Repeat it with `--preset rung-1`, where runs see more tokens for each parameter.",
    False: "Repeat it on another text (`--data` and `--text`) or at the next size (`--preset`).",
}
"""by whether the preset is `tiny`"""

EQUAL = """ *Equal angle* compares {name} with {baseline} where the
    move of each matrix is scaled so that its vectors turn by the rate on average: any remaining difference comes from
    the direction of the steps and how they are spread over the vectors, not from their overall size."""

SMALL_RATE = 1e-3
"""Rate at which the entrant's angle is measured"""

TINY_STEPS = 400
"""Steps of a run at tiny, as in `muon_lr_sweep`"""

NO_SETTINGS = {"lr", "foreach", "maximize", "capturable", "differentiable", "fused"}
"""Entries of a group that a claim need not state: the rate, and how PyTorch computes a step"""

TUNING_SEEDS, SEEDS = 3, 5
"""Seeds on which rates are chosen, and on which methods are compared"""

PROBE_STEPS = 16
"""Steps in which it is measured; the later half counts"""


def two_digits(value: float) -> float:
    """Return a rate in two digits."""
    return float(f"{value:.2g}")


def shown(opponent: str) -> str:
    """Return the name in the report of what --against names."""
    return SHOWN.get(opponent) or origin_of(class_of(opponent)).name


def class_of(opponent: str) -> str:
    """Return the class that --against names, without the arguments that may follow it; empty if it names none."""
    name = opponent.partition(" ")[0]
    return name if is_class(name) else ""


def fields_of(opponent: str) -> dict[str, Any]:
    """Return the configuration fields of what --against names; a class that keeps a norm of its own is not projected.

    >>> fields_of("torch.optim:SGD momentum=0.9")
    {'optimizer': 'torch.optim:SGD', 'optimizer_args': 'momentum=0.9'}
    """
    if opponent in OPPONENTS:
        return dict(OPPONENTS[opponent])
    name, arguments = class_of(opponent), canonical(opponent.partition(" ")[2])
    fields = {"optimizer": name} | ({"optimizer_args": arguments} if arguments else {})
    return fields | ({"constraint": "none"} if claims(name, "keeps_norm") else {})


def campaign_of(
    given: Mapping[str, Any], name: str, lrs: Sequence[float], against: Mapping[str, float], angle: float, preset: str,
    fields: Mapping[str, Any], settings: str = "", text: str | None = None,
) -> Campaign:  # fmt: skip
    """Return the campaign of an entrant; the first opponent is the baseline.

    given: configuration fields of the entrant. against: the middle of its grid of rates by opponent. angle: radians a
    step, the middle of the grids at equal angles. settings: values of the entrant's arguments, for the claim. text: a
    name for the data.
    """
    optimizer = given["optimizer"]
    rule = Rule(metric="final_val_loss", predicted=None, smallest_effect=0.02, unit="nats per token", seeds=5)
    methods = [Method(name=name, fields=given, lrs=tuple(lrs))] + [
        Method(name=shown(one), fields=fields_of(one), lrs=grid_around(middle))
        for one, middle in against.items()
    ]
    baseline, others = methods[1], methods[2:]
    again = on_other_batches(baseline)
    classes = [optimizer, *filter(None, map(class_of, against))]
    rescaled = not any(claims(one, "keeps_position") for one in (optimizer, class_of(next(iter(against)))) if one)
    equal = [
        Method(name=f"{method.name}, equal angle", fields={**method.fields, "match_step": "angle"},
               lrs=grid_around(angle), family=f"{method.name}, equal angle")
        for method in methods[:2] if rescaled
    ]  # fmt: skip

    def contrast(one: Method, other: Method, question: str) -> Contrast:
        return Contrast(name=f"{one.name} against {other.name}", weights={one.name: 1.0, other.name: -1.0}, rule=rule,
                        question=question)  # fmt: skip

    return Campaign(
        name=file_of(name, preset, text), title=f"{name} against {' and '.join(method.name for method in methods[1:])}",
        question=f"Which methods end lower than a tuned {baseline.name}?",
        claim=CLAIM.format(name=name, baseline=baseline.name, origin=origin_of(optimizer).text,
                           arguments=f"`{settings}`" if settings else "no arguments",
                           equal=EQUAL.format(name=name, baseline=baseline.name) if equal else ""),
        subject=name, does_not_show=DOES_NOT_SHOW.format(name=name), follows=FOLLOWS[preset == "tiny"],
        methods=(*methods, again, *equal), baselines=(baseline.name, again.name, *(method.name for method in equal)),
        rule=rule, preset=preset, fields=fields, aux_lrs=AUX_LRS, tuning_seeds=TUNING_SEEDS, comparison_seeds=SEEDS,
        depends_on=tuple(origin_of(one).identity for one in classes),
        further=(
            *(contrast(methods[0], other, f"Does {name} end lower than a tuned {other.name}?") for other in others),
            *(contrast(equal[0], other, f"Does {name} end lower than {baseline.name} at equal angles?")
              for other in equal[1:]),
            noise_of(baseline, rule),
        ),
    )  # fmt: skip


def grid_around(middle: float) -> tuple[float, ...]:
    """Return a grid of rates around its middle."""
    return tuple(two_digits(factor * middle) for factor in FACTORS)


def _default_rate(opponent: str, preset: str) -> float:
    """Return the hidden rate that a preset has for a built-in opponent."""
    return float(OPTIMIZERS[OPPONENTS[opponent]["optimizer"]].defaults[preset]["lr"])


def angles(configs: Sequence[RunConfig], device: str) -> list[float]:
    """Return how far each configuration turns a hidden vector in a step, in radians: the median over a few steps.

    NaN where no step has an angle. Raises KeyboardInterrupt if a run was asked to stop.
    """
    from ngpt.config import Runtime  # imported late, as training needs torch
    from ngpt.training.record import read_metrics
    from ngpt.training.trainer import train

    found = []
    with tempfile.TemporaryDirectory(prefix="angle-") as folder:
        settings = device_settings(device)
        runtime = Runtime(out=Path(folder), progress=False, keep_weights=False, **settings)
        for config in configs:
            few: dict[str, Any] = {"steps": PROBE_STEPS, "eval_every": PROBE_STEPS, "telemetry_every": 1}
            short = dataclasses.replace(config, train=dataclasses.replace(config.train, **few))
            run_folder, record = train(short, runtime)
            if record.status == "killed":  # it has caught the interrupt
                raise KeyboardInterrupt
            rows = read_metrics(run_folder)
            turned = [row["rotation_hidden_rad"] for row in rows if "rotation_hidden_rad" in row]
            found.append(median(turned[len(turned) // 2 :]) if turned else math.nan)
    return found


def rates_and_angle(
    classes: Sequence[Mapping[str, Any]], preset: str, fields: Mapping[str, Any], device: str
) -> tuple[list[float], float]:
    """Return the rates at which classes turn vectors as far as Muon at the preset's rate, and that angle in radians.

    classes: configuration fields of each. The angle is taken to be proportional to the rate, as it is for steps that do
    not depend on it. Raises InputError if one does not turn vectors, or by no finite angle.
    """
    small = [{**one, "lr": SMALL_RATE} for one in classes]
    muon = {"optimizer": "muon", "lr": OPTIMIZERS["muon"].defaults[preset]["lr"]}
    constant = {**fields, "schedule": "constant"}
    *found, reference = angles([resolve(preset, **{**constant, **one}) for one in (*small, muon)], device)
    for one, angle in zip(classes, found, strict=True):
        name = one["optimizer"]
        require(0 < angle < 1, f"--optimizer {name} turns vectors by {angle:.3g} rad a step at lr {SMALL_RATE:g}")
    return [SMALL_RATE * reference / angle for angle in found], reference


def file_of(name: str, preset: str, text: str | None = None) -> str:
    """Return the name of an entrant's campaign, in files: another at each preset, and on each text that has a name.

    >>> file_of("MyRule", "tiny"), file_of("MyRule", "rung-1", "English")
    ('my_rule', 'my_rule_at_rung_1_on_english')
    """
    place = "" if preset == "tiny" else f"_at_{preset.replace('-', '_')}"
    return slug(name) + place + (f"_on_{slug(text)}" if text else "")


class EntrantStudy(CampaignStudy):
    """The campaign of whatever optimizer the command line names; known only once that is read."""

    runner = "try_optimizer"
    by_preset = False

    def __init__(self, taken: Collection[str] = (), fields: Mapping[str, Any] | None = None) -> None:
        """taken: names of other campaigns, which none may have. fields: further configuration fields of every run."""
        self.taken = taken
        self.fields: dict[str, Any] = {"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None, **(fields or {})}

    @property
    def name(self) -> str:
        """Name of the campaign, or of the runner while there is none."""
        return self.experiment.name if "experiment" in vars(self) else self.runner

    def parser(self) -> Parser:
        text = "Train with an optimizer of your own and with tuned opponents, and judge whether it ends lower."
        parser = common_parser(text, preset="tiny", seeds=TUNING_SEEDS, seeds_help=self.seeds_help.format(SEEDS))
        parser.add_argument("optimizer", metavar="CLASS", help="path/file.py:Class or package.module:Class")
        parser.add_argument("--optimizer-args", nargs="*", default=[], metavar="KEY=VALUE", help="arguments of CLASS")
        parser.add_argument("--name", help="name in the report; default: that of the class")
        text = f"{len(FACTORS)} hidden rates; default: around the one at which CLASS turns vectors as far as Muon does"
        parser.add_argument("--lrs", nargs=len(FACTORS), type=float, metavar="X", help=text)
        text = f"opponents, the baseline first: {', '.join(OPPONENTS)}, or classes (default: muon adam); with "
        text += "arguments as in 'module:Class key=value'"
        parser.add_argument("--against", nargs="+", default=["muon", "adam"], metavar="NAME", help=text)
        text = "what projection fixes in the hidden matrices under CLASS, as in train_architectural.py (%(default)s)"
        parser.add_argument("--constraint", choices=get_args(Constraint), default="vectors", help=text)
        text = f"steps of a run; default: the preset's, and {TINY_STEPS} at tiny"
        parser.add_argument("--steps", type=int, help=text)
        add_campaign_flags(parser)
        return parser

    def plan(self, given: argparse.Namespace) -> Plan:
        require(is_class(given.optimizer), f"{given.optimizer}: must be path/file.py:Class or package.module:Class")
        arguments, against = canonical(" ".join(given.optimizer_args)), list(dict.fromkeys(given.against))
        unknown = [one for one in against if one not in OPPONENTS and not class_of(one)]
        require(not unknown, f"--against {' '.join(unknown)}: must be {', '.join(OPPONENTS)}, or a class like CLASS")
        entrant = {"optimizer": given.optimizer, "optimizer_args": arguments}
        entrant |= {} if given.constraint == "vectors" else {"constraint": given.constraint}
        name, opponents = given.name or origin_of(given.optimizer).name, [shown(one) for one in against]
        taken = {*SHOWN.values(), *opponents}  # the controls are called `Muon, equal angle` and so on
        file = file_of(name, given.preset, given.text)
        fine = bool(slug(name)) and file not in self.taken and name.partition(",")[0] not in taken
        require(fine, f"{name} is the name of another method or campaign: give --name another one")
        require(len({*opponents}) == len(opponents), f"--against names two of one name: {', '.join(opponents)}")
        require(not given.publish, "--publish is for the repository's own campaigns; --reports names another folder")
        given.reports = given.reports or given.out / "reports"
        overrides = {key: value for key, value in overrides_of(given).items() if key != "steps"}
        fields = self.fields | ({"steps": TINY_STEPS} if given.preset == "tiny" else {})
        data = data_path(given.reports, file)
        of_classes = {one: fields_of(one) for one in against if class_of(one)}
        classes = [entrant, *of_classes.values()]
        stated = [[origin_of(one["optimizer"]).identity, one.get("optimizer_args", "")] for one in classes]
        begun = given.known[0] if given.known else data
        if given.known or ((given.report_only or given.reproduce) and data.exists()):
            there = read_json(begun)
            measured = there.get("measured", {})
            require(measured.get("classes") == stated, f"{begun}: of other classes than these, or of other arguments")
            require(there.get("preset") == given.preset, f"{begun}: measured at the preset {there.get('preset')}")
            middles, angle = measured["rates"], measured["angle"]
        else:
            middles, angle = rates_and_angle(classes, given.preset, fields | overrides, given.device)
        middle_of = dict(zip(of_classes, middles[1:], strict=True))
        middle_of |= {one: _default_rate(one, given.preset) for one in against if one in OPPONENTS}
        lrs = grid_around(middles[0])
        if given.lrs is not None:
            lrs = tuple(given.lrs)
            increasing = lrs[0] > 0 and all(one < other for one, other in itertools.pairwise(lrs))
            require(increasing, f"--lrs must be positive and increasing: {' '.join(f'{lr:g}' for lr in lrs)}")
        self.measured = {"classes": stated, "rates": middles, "angle": angle}
        self.along_the_gradient = _along_the_gradient(given.optimizer, lrs[len(lrs) // 2], arguments)
        if self.along_the_gradient is None:
            print(f"note: where the gradient stays the same, the moves of {name} are not finite")
        elif self.along_the_gradient >= 0:
            cosine = f"a cosine of {self.along_the_gradient:+.2f} with the gradient"
            print(f"note: {name} does not descend: its moves have {cosine}")
        of_opponents = {one: middle_of[one] for one in against}
        settings = _settings(given.optimizer, lrs[len(lrs) // 2], arguments)
        self.experiment = campaign_of(
            entrant, name, lrs, of_opponents, angle, given.preset, fields, settings, given.text
        )
        return super().plan(given)

    def show(self, plan: Plan, jobs: int) -> None:
        runs = [run for batch, _ in self.stages(plan, Outcome()) for run in batch]
        try_classes([run for run in runs if not is_finished(plan, run)])
        super().show(plan, jobs)

    def details(self, plan: Plan, runs: list[PlannedRun]) -> dict[str, Any]:
        found = {"along_the_gradient": self.along_the_gradient, "measured": self.measured}
        return super().details(plan, runs) | found


def _along_the_gradient(optimizer: str, lr: float, arguments: str) -> float | None:
    """Return the cosine between a class's moves and a gradient that stays the same; None if they are not finite.

    Raises InputError if the class fails there.
    """
    from ngpt.optim.trial import along_the_gradient  # imported late, as it needs torch

    try:
        cosine = along_the_gradient(optimizer, lr, arguments)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise failure(optimizer, "it fails where the gradient stays the same", error) from error
    return cosine if math.isfinite(cosine) else None


def _settings(optimizer: str, lr: float, arguments: str) -> str:
    """Return the arguments of a class with their values, defaults included: what a new group of it holds."""
    from ngpt.optim.trial import trial  # imported late, as it needs torch

    held = trial(optimizer, lr, arguments).optimizer.defaults
    return ", ".join(f"{name}={value}" for name, value in held.items() if name not in NO_SETTINGS and value is not None)
