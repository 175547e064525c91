"""Collected data -> each gate, PASS or FAIL, with Muon's result and AdamW's beside it. Pure, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Row, share_of_steps
from ngpt.campaign.analysis.statistics import Array, mean_interval
from ngpt.campaign.gates.definition import Gates, OptimizerName, Targets, TaskName

Texts = dict[OptimizerName, str]

BOTH: tuple[OptimizerName, ...] = ("Muon", "AdamW")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate with its result."""

    name: str
    asks: str
    """what passes"""
    muon: str
    """Muon's result, in words"""
    adamw: str
    """AdamW's"""
    why: str
    """for a gate that fails: by how much, or what is missing"""

    @property
    def passed(self) -> bool:
        """Return whether there is no reason to fail."""
        return not self.why

    @property
    def label(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"

    @property
    def line(self) -> str:
        """`G3 PASS  overfit 100 samples: below 0.5 bits per byte: Muon 0.2; AdamW 0.7`."""
        why = f": {self.why}" if self.why else ""
        return f"{self.name} {self.label}{why}  {self.asks}: Muon {self.muon}; AdamW {self.adamw}"


Results = dict[OptimizerName, list[Row]]
"""the runs of one task, by optimizer"""


def _results(data: dict[str, Any], task: TaskName) -> Results:
    """Return the runs that ended by themselves, with the number of iterations that the gates are judged at."""
    ended = [row for row in data["runs"] if row["task"] == task and row["status"] in ("done", "diverged")]
    judged = [row for row in ended if row["optimizer"] != "Muon" or row["ns_steps"] == data["ns_steps"]]
    return {name: [row for row in judged if row["optimizer"] == name] for name in BOTH}


def judge_gates(gates: Gates, data: dict[str, Any]) -> list[Gate]:
    """Judge all gates, in order. A gate without its runs fails."""
    targets, ns_steps, seeds = gates.targets, data["ns_steps"], data["race_seeds"]
    table: list[tuple[TaskName, Callable[[Results, Targets, dict[str, Any]], tuple[Texts, str]], str]] = [
        ("stability", polar_updates,
         f"Muon moves the attention and MLP matrices, {ns_steps} iterations: orthogonality error of their updates, "
         f"median, at most {targets.orthogonality_error:g}"),
        ("stability", hybrid,
         f"hybrid with AdamW on all but those matrices, cosine from {targets.lr_first:g} to {targets.lr_last:g}, "
         "and the loss falls"),
        ("overfit", overfits,
         f"overfit {data['overfit_windows']} samples: below {targets.overfit_bpb:g} bits per byte"),
        ("speed", fast, f"at least {targets.steps_per_second:g} steps/s"),
        ("stability", stable, f"{targets.stable_steps:,} steps, loss and gradient norm finite in all of them"),
        ("race", race,
         f"AdamW's final loss in at least {targets.fewer_steps:.0%} fewer steps, beyond noise, {seeds} seeds"),
        ("automata", automata,
         f"the automata's configuration trains: {targets.below_guess:g} nats per token below an even guess"),
    ]  # fmt: skip
    found = []
    for number, (task, judge, asks) in enumerate(table, 1):
        results = _results(data, task)
        lacking = [name for name in BOTH if not results[name]]
        texts: Texts = {}
        if task == "race" and (pairs := len(race_shares(results))) < seeds:
            why = f"{pairs} of {seeds} pairs of runs finished"
        elif lacking:
            why = f"no finished run of {' and '.join(lacking)}"
        else:
            texts, why = judge(results, targets, data)
        muon, adamw = (texts.get(name, "–") for name in BOTH)
        found.append(Gate(name=f"G{number}", asks=asks, muon=muon, adamw=adamw, why=why))
    return found


def _telemetry(row: Row, quantity: str) -> list[float]:
    return [value for value in row.get("telemetry", {}).get(quantity, []) if value is not None]


def polar_updates(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G1: every watched update of the 2-D weights moved them, and at least half of them were near a polar factor."""
    texts: Texts = {}
    whys = {}
    for name, (row, *_) in results.items():
        errors, rotations = _telemetry(row, "orthogonality_error"), _telemetry(row, "rotation_hidden_rad")
        error, rotation = median(errors) if errors else math.inf, min(rotations, default=0.0)
        texts[name] = f"{error:.2f}, smallest rotation {rotation:.2g} rad"
        too_large = f"error {error:.3g}" if error > targets.orthogonality_error else ""
        whys[name] = "an update moved nothing" if rotation == 0 else too_large
    return texts, whys["Muon"]


def hybrid(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G2: embedding and head are moved too, and the rate follows its cosine from end to end."""
    texts: Texts = {}
    whys: Texts = {}
    for name, (row, *_) in results.items():
        turns = [r for role in ("embedding", "head") for r in _telemetry(row, f"rotation_{role}_rad")]
        slowest, first, last = min(turns, default=0.0), row["lr_first"], row["lr_last"]
        texts[name] = f"rate {first:g} to {last:.3g}, embedding and head turn by {slowest:.2g} rad a step or more"
        reasons = {
            f"the rate begins at {first:g}": not math.isclose(first, targets.lr_first, rel_tol=1e-6),
            f"the rate ends at {last:g}": not targets.lr_last * (1 - 1e-6) <= last <= 1.05 * targets.lr_last,
            "embedding or head did not move": slowest == 0,
            "the loss did not fall": not row.get("final_val_loss", math.inf) < row["first_loss"],
        }
        whys[name] = ", ".join(reason for reason, applies in reasons.items() if applies)
    return texts, whys["Muon"]


def overfits(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G3: bits per byte on the few samples that it was trained on."""
    muon, adamw = (results[name][0].get("final_val_bpb", math.inf) for name in BOTH)
    texts: Texts = {"Muon": f"{muon:.3f} after {results['Muon'][0]['steps']} steps", "AdamW": f"{adamw:.3f}"}
    return texts, "" if muon < targets.overfit_bpb else f"{muon - targets.overfit_bpb:.3f} too high"


def fast(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G4: steps per second with all cores and nothing beside it, median over runs; the optimizers take turns."""
    muon, adamw = (median(row["steps_per_second"] for row in results[name]) for name in BOTH)
    dropped, target = data["steps_per_second_before_the_drop"], targets.steps_per_second
    before = "" if dropped is None else f" ({dropped:.1f} with {data['ns_steps_wanted']})"
    texts: Texts = {"Muon": f"{muon:.1f} with {data['ns_steps']} iterations{before}", "AdamW": f"{adamw:.1f}"}
    return texts, "" if muon >= target else f"{muon / target:.0%} of the target"


def stable(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G5: loss and gradient norm of every step are finite."""
    texts: Texts = {
        name: f"{row['steps']:,} steps, {row['steps_not_finite']} not finite, largest gradient norm "
        f"{row['largest_grad_norm']:.3g}"
        for name, (row, *_) in results.items()
    }
    row = results["Muon"][0]
    if "fell_back_at_step" in row:
        texts["Muon"] += f", NorMuon from step {row['fell_back_at_step']} on"
    whys = [f"only {row['steps']:,} steps"] * (row["steps"] < targets.stable_steps)
    whys += [f"{row['steps_not_finite']} steps not finite"] * (row["steps_not_finite"] > 0)
    return texts, ", ".join(whys) or ("" if row["status"] == "done" else row["status"])


def race_shares(results: Results) -> Array:
    """Return the share of AdamW's steps in which Muon reaches AdamW's final loss, by seed; inf where it never does."""
    adamw = {row["seed"]: row for row in results["AdamW"] if "final_val_loss" in row}
    return np.array([share_of_steps(row, adamw[row["seed"]]) for row in results["Muon"] if row["seed"] in adamw])


def race(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G6: the share of steps that Muon saves; its whole interval over seeds must reach the target."""
    shares, adamw = race_shares(results), results["AdamW"]
    loss = np.mean([row["final_val_loss"] for row in adamw])
    texts: Texts = {"AdamW": f"{loss:.4f} nats per token after {adamw[0]['steps']} steps"}
    never, found = int(np.isinf(shares).sum()), mean_interval(shares)
    if never or found is None:
        texts["Muon"] = f"not reached on {never} of {data['race_seeds']} seeds"
        return texts, texts["Muon"]
    saved, low, high = 1 - found[0], 1 - found[2], 1 - found[1]
    texts["Muon"] = f"{saved:.0%} fewer [{low:.0%}, {high:.0%}]"
    # a gate that noise can open would say PASS today and FAIL tomorrow
    why = "not beyond noise" if high >= targets.fewer_steps else f"at most {high:.0%}"
    return texts, "" if low >= targets.fewer_steps else why


def automata(results: Results, targets: Targets, data: dict[str, Any]) -> tuple[Texts, str]:
    """G7: the configuration of the cellular automata trains."""
    guess = math.log(data["automata_vocabulary"])
    below = {name: guess - row.get("final_val_loss", math.inf) for name, (row, *_) in results.items()}
    texts: Texts = {name: f"{value:.2f} below" for name, value in below.items()}
    why = f"{targets.below_guess - below['Muon']:.2f} nats missing"
    return texts, "" if below["Muon"] >= targets.below_guess else why


def overall(found: list[Gate]) -> str:
    """Return `PASS`, or `FAIL (G4, G6)`."""
    failed = [gate.name for gate in found if not gate.passed]
    return f"FAIL ({', '.join(failed)})" if failed else "PASS"


def polar_operations(data: dict[str, Any]) -> float:
    """Return the orthogonalizer's operations per step: 2 m m (2 n + m) per iteration and matrix (m, n), m <= n."""
    layers, width, hidden = (data["model"][name] for name in ("layers", "width", "mlp_hidden"))
    matrices = [(width, width)] * 4 + [(min(width, hidden), max(width, hidden))] * 3
    return float(layers * data["ns_steps"] * sum(2 * m * m * (2 * n + m) for m, n in matrices))
