"""Collected data -> each gate, PASS or FAIL, with Muon's result and AdamW's beside it. Pure, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Row, share_of_steps
from ngpt.campaign.analysis.statistics import Array, sample_mean
from ngpt.campaign.gates.definition import Gates, OptimizerName, Targets, TaskName

BOTH: tuple[OptimizerName, ...] = ("Muon", "AdamW")

NO_STEP = "no step had a finite loss and gradient"


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


def _ended(data: dict[str, Any], task: TaskName, optimizer: OptimizerName) -> list[Row]:
    """Return the runs that ended by themselves, with the number of iterations that the gates are judged at."""
    mine = [row for row in data["runs"] if row["task"] == task and row["optimizer"] == optimizer]
    ended = [row for row in mine if row["status"] in ("done", "diverged")]
    return [row for row in ended if optimizer == "AdamW" or row["ns_steps"] == data["ns_steps"]]


def judge_gates(gates: Gates, data: dict[str, Any]) -> list[Gate]:
    """Judge all gates, in order. A gate without its runs fails."""
    targets, ns_steps, seeds = gates.targets, data["ns_steps"], data["race_seeds"]
    table: list[tuple[TaskName, Callable[[list[Row], Targets, dict[str, Any]], tuple[str, str]], str]] = [
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
        runs = {name: _ended(data, task, name) for name in BOTH}
        lacking = [name for name in BOTH if not runs[name]]
        muon = adamw = "–"
        if task == "race" and (pairs := len(race_shares(data))) < seeds:
            why = f"{pairs} of {seeds} pairs of runs finished"
        elif lacking:
            why = f"no finished run of {' and '.join(lacking)}"
        else:
            (muon, why), (adamw, _) = (judge(runs[name], targets, data) for name in BOTH)
        found.append(Gate(name=f"G{number}", asks=asks, muon=muon, adamw=adamw, why=why))
    return found


# Each judgment takes the runs of one optimizer for one task, one per seed, and returns its result in words and why it
# would fail, empty if it passes. That of Muon counts.


def _telemetry(row: Row, quantity: str) -> list[float]:
    return [value for value in row.get("telemetry", {}).get(quantity, []) if value is not None]


def polar_updates(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G1: every watched update of the 2-D weights moved them, and at least half of them were near a polar factor."""
    errors, rotations = (_telemetry(rows[0], name) for name in ("orthogonality_error", "rotation_hidden_rad"))
    error, rotation = median(errors) if errors else math.inf, min(rotations, default=0.0)
    too_large = f"error {error:.3g}" if error > targets.orthogonality_error else ""
    text = f"{error:.2f}, smallest rotation {rotation:.2g} rad"
    return text, "an update moved nothing" if rotation == 0 else too_large


def hybrid(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G2: embedding and head are moved too, and the rate follows its cosine from end to end."""
    row = rows[0]
    if "first_loss" not in row:
        return "–", NO_STEP
    turns = [r for role in ("embedding", "head") for r in _telemetry(row, f"rotation_{role}_rad")]
    slowest, first, last = min(turns, default=0.0), row["lr_first"], row["lr_last"]
    reasons = {
        f"the rate begins at {first:g}": not math.isclose(first, targets.lr_first, rel_tol=1e-6),
        f"the rate ends at {last:g}": not targets.lr_last * (1 - 1e-6) <= last <= 1.05 * targets.lr_last,
        "embedding or head did not move": slowest == 0,
        "the loss did not fall": not row.get("final_val_loss", math.inf) < row["first_loss"],
    }
    text = f"rate {first:g} to {last:.3g}, embedding and head turn by {slowest:.2g} rad a step or more"
    return text, ", ".join(reason for reason, applies in reasons.items() if applies)


def overfits(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G3: bits per byte on the few samples that it was trained on."""
    bpb = rows[0].get("final_val_bpb", math.inf)
    after = f" after {rows[0]['steps']} steps" if rows[0]["optimizer"] == "Muon" else ""
    return f"{bpb:.3f}{after}", "" if bpb < targets.overfit_bpb else f"{bpb - targets.overfit_bpb:.3f} too high"


def fast(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G4: steps per second with all cores and nothing beside it, median over runs; the optimizers take turns."""
    speed = median(row.get("steps_per_second", 0.0) for row in rows)
    dropped = data["steps_per_second_before_the_drop"]
    before = "" if dropped is None else f" ({dropped:.1f} with {data['ns_steps_wanted']})"
    iterations = f" with {data['ns_steps']} iterations{before}" if rows[0]["optimizer"] == "Muon" else ""
    target = targets.steps_per_second
    return f"{speed:.1f}{iterations}", "" if speed >= target else f"{speed / target:.0%} of the target"


def stable(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G5: loss and gradient norm of every step are finite."""
    row, steps, missed = rows[0], f"{rows[0]['steps']:,} steps", rows[0]["steps_not_finite"]
    if "largest_grad_norm" not in row:
        return f"{steps}, {missed} not finite", NO_STEP
    fallback = f", NorMuon from step {row['fell_back_at_step']} on" if "fell_back_at_step" in row else ""
    text = f"{steps}, {missed} not finite, largest gradient norm {row['largest_grad_norm']:.3g}{fallback}"
    whys = [f"only {steps}"] * (row["steps"] < targets.stable_steps) + [f"{missed} steps not finite"] * (missed > 0)
    return text, ", ".join(whys) or ("" if row["status"] == "done" else row["status"])


def race_shares(data: dict[str, Any]) -> Array:
    """Return the share of AdamW's steps in which Muon reaches AdamW's final loss, by seed; inf where it never does."""
    adamw = {row["seed"]: row for row in _ended(data, "race", "AdamW") if "final_val_loss" in row}
    muon = [row for row in _ended(data, "race", "Muon") if row["seed"] in adamw]
    return np.array([share_of_steps(row, adamw[row["seed"]]) for row in muon])


def race(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G6: the share of steps that Muon saves; its whole interval over seeds must reach the target."""
    if rows[0]["optimizer"] == "AdamW":
        loss = np.mean([row["final_val_loss"] for row in rows])
        return f"{loss:.4f} nats per token after {rows[0]['steps']} steps", ""
    shares = race_shares(data)
    never, share = int(np.isinf(shares).sum()), sample_mean(shares)
    if never or share is None:
        why = f"not reached on {never} of {data['race_seeds']} seeds"
        return why, why
    saved, low, high = 1 - share.mean, 1 - share.t_high, 1 - share.t_low
    # a gate that noise can open would say PASS today and FAIL tomorrow
    why = "not beyond noise" if high >= targets.fewer_steps else f"at most {high:.0%}"
    return f"{saved:.0%} fewer [{low:.0%}, {high:.0%}]", "" if low >= targets.fewer_steps else why


def automata(rows: list[Row], targets: Targets, data: dict[str, Any]) -> tuple[str, str]:
    """G7: the configuration of the cellular automata trains."""
    below = math.log(data["automata_vocabulary"]) - rows[0].get("final_val_loss", math.inf)
    missing = targets.below_guess - below
    return f"{below:.2f} below", "" if missing <= 0 else f"{missing:.2f} nats missing"


def overall(found: list[Gate]) -> str:
    """Return `PASS`, or `FAIL (G4, G6)`."""
    failed = [gate.name for gate in found if not gate.passed]
    return f"FAIL ({', '.join(failed)})" if failed else "PASS"
