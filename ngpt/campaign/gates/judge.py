"""`reports/data/<name>.json` -> each gate, PASS or FAIL, with Muon's figure and AdamW's beside it. Pure, no torch."""

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ngpt.campaign.analysis import mean_interval
from ngpt.campaign.gates.definition import Gates, OptimizerName, Targets, TaskName
from ngpt.campaign.statistics import Array, steps_to_reach

Row = dict[str, Any]

BOTH: tuple[OptimizerName, ...] = ("Muon", "AdamW")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate with its result."""

    name: str
    asks: str
    """what passes"""
    passed: bool
    muon: str
    """Muon's figure, in words"""
    adamw: str
    """AdamW's"""
    why: str = ""
    """of a gate that fails: by how much, or what is missing"""

    @property
    def label(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"


class Results:
    """The rows of a data file by task and optimizer."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.rows: list[Row] = data["runs"]

    def of(self, task: TaskName, optimizer: OptimizerName) -> list[Row]:
        """Runs that ended by themselves, at the iterations that the gates are judged at."""
        return [
            row
            for row in self.rows
            if (row["task"], row["optimizer"]) == (task, optimizer)
            and row["status"] in ("done", "diverged")
            and (optimizer != "Muon" or row["ns_steps"] == self.data["ns_steps"])
        ]

    def missing(self, task: TaskName) -> str:
        """Says which optimizer has no finished run of a task; empty if both have."""
        lacking = [name for name in BOTH if not self.of(task, name)]
        return f"no finished run of {' and '.join(lacking)}" if lacking else ""


def judge_gates(gates: Gates, data: dict[str, Any]) -> list[Gate]:
    """All gates in their order. A gate without its runs fails."""
    results, targets = Results(data), gates.targets
    return [
        polar_updates(results, targets),
        hybrid(results, targets),
        overfits(results, targets),
        fast(results, targets),
        stable(results, targets),
        race(results, targets),
        automata(results, targets),
    ]


def _failed(name: str, asks: str, why: str) -> Gate:
    return Gate(name=name, asks=asks, passed=False, muon="–", adamw="–", why=why)


def _telemetry(row: Row, quantity: str) -> list[float]:
    return [value for value in row.get("telemetry", {}).get(quantity, []) if value is not None]


def polar_updates(results: Results, targets: Targets) -> Gate:
    """G1: every watched update of the 2-D weights moved them, and half of them or more were near a polar factor."""
    asks = (
        f"Muon moves the attention and MLP matrices, {results.data['ns_steps']} iterations: orthogonality error of "
        f"their updates, median, at most {targets.orthogonality_error:g}"
    )
    if why := results.missing("stability"):
        return _failed("G1", asks, why)
    figures = {}
    for name in BOTH:
        row = results.of("stability", name)[0]
        errors, rotations = _telemetry(row, "orthogonality_error"), _telemetry(row, "rotation_hidden_rad")
        figures[name] = (median(errors) if errors else math.inf, min(rotations, default=0.0))
    error, rotation = figures["Muon"]
    why = f"error {error:.3g}" if error > targets.orthogonality_error else ""
    why = "an update moved nothing" if rotation == 0 else why
    text = {name: f"{e:.2f}, smallest rotation {r:.2g} rad" for name, (e, r) in figures.items()}
    return Gate(name="G1", asks=asks, passed=not why, muon=text["Muon"], adamw=text["AdamW"], why=why)


def hybrid(results: Results, targets: Targets) -> Gate:
    """G2: embedding and head are moved too, and the rate follows its cosine from end to end."""
    asks = (
        f"hybrid with AdamW on all but those matrices, cosine from {targets.lr_first:g} to {targets.lr_last:g}, "
        "and the loss falls"
    )
    if why := results.missing("stability"):
        return _failed("G2", asks, why)
    texts, whys = {}, []
    for name in BOTH:
        row = results.of("stability", name)[0]
        slowest = min(
            (rotation for role in ("embedding", "head") for rotation in _telemetry(row, f"rotation_{role}_rad")),
            default=0.0,
        )
        first, last, falls = row["lr_first"], row["lr_last"], row.get("final_val_loss", math.inf) < row["first_loss"]
        texts[name] = f"rate {first:g} to {last:.3g}, embedding and head turn by {slowest:.2g} rad a step or more"
        if name == "Muon":
            if not math.isclose(first, targets.lr_first, rel_tol=1e-6):
                whys.append(f"the rate begins at {first:g}")
            if not targets.lr_last * (1 - 1e-6) <= last <= 1.05 * targets.lr_last:
                whys.append(f"the rate ends at {last:g}")
            whys += ["embedding or head did not move"] * (slowest == 0) + ["the loss did not fall"] * (not falls)
    why = ", ".join(whys)
    return Gate(name="G2", asks=asks, passed=not whys, muon=texts["Muon"], adamw=texts["AdamW"], why=why)


def overfits(results: Results, targets: Targets) -> Gate:
    """G3: bits per byte on the few samples that it was trained on."""
    asks = f"overfit {results.data['overfit_windows']} samples: below {targets.overfit_bpb:g} bits per byte"
    if why := results.missing("overfit"):
        return _failed("G3", asks, why)
    found = {name: results.of("overfit", name)[0] for name in BOTH}
    reached = {name: row.get("final_val_bpb", math.inf) for name, row in found.items()}
    muon = reached["Muon"]
    return Gate(
        name="G3",
        asks=asks,
        passed=muon < targets.overfit_bpb,
        muon=f"{muon:.3f} after {found['Muon']['steps']} steps",
        adamw=f"{reached['AdamW']:.3f}",
        why="" if muon < targets.overfit_bpb else f"{muon - targets.overfit_bpb:.3f} too high",
    )


def steps_per_second(rows: list[Row]) -> float:
    """Median over runs, each its own median over steps."""
    return median(row["steps_per_second"] for row in rows)


def fast(results: Results, targets: Targets) -> Gate:
    """G4: steps a second with all cores and nothing beside it, both optimizers in turn."""
    asks = f"at least {targets.steps_per_second:g} steps/s"
    if why := results.missing("speed"):
        return _failed("G4", asks, why)
    muon, adamw = (steps_per_second(results.of("speed", name)) for name in BOTH)
    dropped = results.data["steps_per_second_before_the_drop"]
    before = "" if dropped is None else f" ({dropped:.1f} with {results.data['ns_steps_wanted']})"
    return Gate(
        name="G4",
        asks=asks,
        passed=muon >= targets.steps_per_second,
        muon=f"{muon:.1f} with {results.data['ns_steps']} iterations{before}",
        adamw=f"{adamw:.1f}",
        why="" if muon >= targets.steps_per_second else f"{muon / targets.steps_per_second:.0%} of the target",
    )


def stable(results: Results, targets: Targets) -> Gate:
    """G5: loss and gradient norm of every step are finite."""
    asks = f"{targets.stable_steps:,} steps, loss and gradient norm finite in all of them"
    if why := results.missing("stability"):
        return _failed("G5", asks, why)
    found = {name: results.of("stability", name)[0] for name in BOTH}
    texts = {
        name: f"{row['steps']:,} steps, {row['steps_not_finite']} not finite, largest gradient norm "
        f"{row['largest_grad_norm']:.3g}"
        for name, row in found.items()
    }
    row, whys = found["Muon"], []
    if row["steps"] < targets.stable_steps:
        whys.append(f"only {row['steps']:,} steps")
    if row["steps_not_finite"]:
        whys.append(f"{row['steps_not_finite']} steps not finite")
    if row["status"] != "done" and not whys:
        whys.append(row["status"])
    if "fell_back_at_step" in row:
        texts["Muon"] += f", NorMuon from step {row['fell_back_at_step']} on"
    return Gate(
        name="G5", asks=asks, passed=not whys, muon=texts["Muon"], adamw=texts["AdamW"], why=", ".join(whys)
    )  # fmt: skip


def race_shares(results: Results) -> Array:
    """Share of AdamW's steps after which Muon is at AdamW's final loss, by seed; inf where it never is."""
    adamw = {row["seed"]: row for row in results.of("race", "AdamW") if "final_val_loss" in row}
    return np.array(
        [
            steps_to_reach(row["val"]["step"], row["val"]["loss"], base["final_val_loss"]) / base["steps"]
            for row in results.of("race", "Muon")
            if (base := adamw.get(row["seed"])) is not None
        ]
    )


def race(results: Results, targets: Targets) -> Gate:
    """G6: the share of steps that Muon saves, its whole interval over seeds at the target or beyond it."""
    seeds = results.data["race_seeds"]
    asks = f"AdamW's final loss in at least {targets.fewer_steps:.0%} fewer steps, beyond noise, {seeds} seeds"
    shares = race_shares(results)
    if len(shares) < seeds:
        return _failed("G6", asks, f"{len(shares)} of {seeds} pairs of runs finished")
    never = int(np.isinf(shares).sum())
    adamw, steps = results.of("race", "AdamW"), results.of("race", "AdamW")[0]["steps"]
    ends = f"{np.mean([row['final_val_loss'] for row in adamw]):.4f} nats per token after {steps} steps"
    found = mean_interval(shares)
    if never or found is None:
        text = f"not reached on {never} of {seeds} seeds"
        return Gate(name="G6", asks=asks, passed=False, muon=text, adamw=ends, why=text)
    saved, low, high = 1 - found[0], 1 - found[2], 1 - found[1]
    text, why = f"{saved:.0%} fewer [{low:.0%}, {high:.0%}]", ""
    if low < targets.fewer_steps:  # a gate that noise can open would say PASS today and FAIL tomorrow
        why = "not beyond noise" if high >= targets.fewer_steps else f"at most {high:.0%}"
    return Gate(name="G6", asks=asks, passed=not why, muon=text, adamw=ends, why=why)


def automata(results: Results, targets: Targets) -> Gate:
    """G7: the configuration of the cellular automata trains."""
    asks = f"the automata's configuration trains: {targets.below_guess:g} nats per token below an even guess"
    if why := results.missing("automata"):
        return _failed("G7", asks, why)
    guess = math.log(results.data["automata_vocabulary"])
    below = {}
    for name in BOTH:
        below[name] = guess - results.of("automata", name)[0].get("final_val_loss", math.inf)
    passed = below["Muon"] >= targets.below_guess
    why = "" if passed else f"{targets.below_guess - below['Muon']:.2f} nats missing"
    texts = {name: f"{value:.2f} below" for name, value in below.items()}
    return Gate(name="G7", asks=asks, passed=passed, muon=texts["Muon"], adamw=texts["AdamW"], why=why)


def overall(found: list[Gate]) -> str:
    """`PASS`, or `FAIL (G4, G6)`: all gates, the three of the plan's own last line among them."""
    failed = [gate.name for gate in found if not gate.passed]
    return f"FAIL ({', '.join(failed)})" if failed else "PASS"


def polar_operations(data: dict[str, Any]) -> float:
    """Operations of the orthogonaliser a step: 2 m m (2 n + m) an iteration and matrix (m, n), m <= n."""
    layers, width, hidden = (data["model"][name] for name in ("layers", "width", "mlp_hidden"))
    matrices = [(width, width)] * 4 + [(min(width, hidden), max(width, hidden))] * 3
    return float(layers * data["ns_steps"] * sum(2 * m * m * (2 * n + m) for m, n in matrices))
