"""Published rules and optimizers of an installed package on gated nGPT, under one protocol."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.definition import Campaign, Method, Rule, noise_of, on_other_batches

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Every grid of hidden rates, as multiples of its middle"""

FINALISTS = 8
"""Number of methods that go on to `rung-1`, Muon included"""

MUON: dict[str, Any] = {"optimizer": "muon"}
CANDIDATES: dict[str, tuple[dict[str, Any], float]] = {
    "Muon": (MUON, 0.03),
    "geodesic Muon": ({**MUON, "geodesic_muon": "lr-norm"}, 0.03),
    "Muon, tangent gradient": ({**MUON, "tangent": "gradient"}, 0.03),
    "NorMuon": ({**MUON, "normuon": "short-axis"}, 0.03),
    "NorMuon on the MLP": ({**MUON, "normuon": "short-axis", "normuon_matrices": "mlp"}, 0.03),
    "Muon, RMNP for embedding and head": ({**MUON, "vocab_rule": "rmnp"}, 0.03),
    "Muon, Tail-EMA": ({**MUON, "tail_ema_steps": 40}, 0.03),
    "AngularMuown": ({"optimizer": "ngpt.rules:AngularMuown"}, 0.03),
    "two-buffer Muon": ({"optimizer": "ngpt.rules:TwoBufferMuon"}, 0.03),
    "EMA-Nesterov": ({"optimizer": "ngpt.rules:EmaNesterov"}, 0.03),
    "MuonH": ({"optimizer": "ngpt.rules:MuonH", "constraint": "none"}, 0.03),
    "MuonSphere": ({"optimizer": "ngpt.rules:MuonSphere", "constraint": "none"}, 0.015),
    "Kaon": ({"optimizer": "ngpt.rules:Kaon"}, 0.057),
    "Nora": ({"optimizer": "ngpt.rules:Nora"}, 0.024),
    "RMNP": ({"optimizer": "ngpt.rules:RMNP"}, 0.024),
    "Signum": ({"optimizer": "ngpt.rules:Signum"}, 0.024),
    "Adam": ({"optimizer": "adam"}, 0.0075),
    "ADOPT": ({"optimizer": "pytorch_optimizer:ADOPT"}, 0.0069),
    "Lion": ({"optimizer": "pytorch_optimizer:Lion"}, 0.003),
    "SOAP": ({"optimizer": "pytorch_optimizer:SOAP"}, 0.0089),
    "Shampoo": ({"optimizer": "pytorch_optimizer:Shampoo"}, 0.13),
}
"""Configuration fields and the middle of the grid: the rate at which vectors turn as far as under Muon at 0.03"""

GAIN = Rule(metric="final_val_loss", predicted="not lower", smallest_effect=0.02, unit="nats per token", seeds=5)


def tuned(name: str) -> Method:
    """Return a candidate with the grid of hidden rates around its middle."""
    fields, middle = CANDIDATES[name]
    return Method(name=name, fields=fields, lrs=tuple(float(f"{factor * middle:.2g}") for factor in FACTORS))


METHODS = [tuned(name) for name in CANDIDATES]
AGAIN = on_other_batches(METHODS[0])


def finalists(losses: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Return the methods that go on: Muon, then the others with the lowest finite mean loss, best first."""
    means = {name: float(np.mean(values)) for name, values in losses.items()}
    finite = [name for name, mean in means.items() if np.isfinite(mean) and name not in ("Muon", AGAIN.name)]
    return ["Muon", *sorted(finite, key=lambda name: means[name])[: FINALISTS - 1]]


def follow_up(losses: Mapping[str, NDArray[np.float64]]) -> str:
    """Return who goes on, as a sentence; nothing while there are runs to come."""
    if not {*CANDIDATES} <= {*losses} or not np.isfinite(losses["Muon"]).all():
        return ""
    return f"By the rule in the claim, these advance: {'; '.join(finalists(losses))}."


CAMPAIGN = Campaign(
    name="sphere_optimizers",
    title="Twenty rules and packaged optimizers against Muon on gated nGPT",
    question="Which optimizers end lower than Muon?",
    claim=r"""
        The hidden matrices are moved by published rules, each as `docs/method.md` describes it, or by optimizers of the
        package `pytorch_optimizer` (`pip install -e '.[optimizers]'`) at their defaults. AdamW moves everything else,
        at one auxiliary rate for all runs, except embedding and head in *Muon, RMNP for embedding and head*. Projection
        brings vectors back to unit length every 7 steps, except under *MuonH* and *MuonSphere*, which keep a norm of
        the whole matrix instead. All rates fall linearly to zero.

        Every method is tuned over five hidden rates, a factor of two apart. The middle of a grid is the rate at which
        the method turns vectors as far in a step as Muon does at 0.03, the middle of its own grid, measured over
        sixteen steps. Other options keep their published values. A cap on the angle (`--max-angle`) is left out: at
        most of these rates a sensible one never acts.

        This is a selection. `tiny` sees 1.4 tokens per entry of a hidden matrix, and the auxiliary rate is not tuned
        for each method. What follows, fixed before the runs: Muon and the seven others with the lowest mean loss on the
        comparison seeds go on to `rung-1`, on other seeds, with both rates tuned. `finalists` in the experiment's file
        computes them.

        *Other batches* is Muon again on the same data in another order: the size of noise.

        Prediction: no method's loss ends lower than Muon's by 0.02 nats per token or more. Earlier campaigns saw no
        step gain that much, and Adam and its relatives lose to Muon. Among the rules without a polar factor, none comes
        within 0.02 of it.
    """,
    methods=(*METHODS, AGAIN),
    baselines=("Muon", AGAIN.name),
    rule=GAIN,
    further=(noise_of(METHODS[0], GAIN),),
    fields={"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None, "adam_beta1": 0.9},
    at_preset={"tiny": {"steps": 400}},
    reading=r"""
        The optimizers fall into two groups, with Shampoo between them. Methods with a polar factor, and SOAP, which
        works in the eigenbasis of Shampoo's preconditioners, end within about the smallest effect that matters of
        Muon: a second moment (NorMuon), a random spectrum (Kaon), another constraint (MuonH, MuonSphere), the geodesic
        step or an average of the weights (Tail-EMA) changes little here. Methods that treat vectors or entries one by
        one (Adam, ADOPT, Lion, Signum, RMNP, Nora) end far behind. Two additions to Muon made it worse: a second
        momentum buffer, and RMNP for embedding and head; both differ from it by little more than what matters. So the
        second prediction failed for SOAP, which has no polar factor and is level with Muon.

        MuonSphere has the lowest mean loss, and whether its lead is large enough to matter is undecided. The sphere
        may not be the cause: as published, its momentum coefficient is lower than Muon's, and with Muon's it lost to
        Muon in `which_sphere`. Lion, SOAP and Shampoo have their best rates at the ends of their grids and could do
        better than they do here. The control differs from Muon by more than most methods do, because it is not paired
        with Muon's runs: pairing removes that variation from the comparisons.
    """,
    does_not_show=r"""
        Which of the close methods is best. Nothing about longer training, where runs see far more tokens, about rules
        with their options tuned, or about methods with an auxiliary rate of their own: all of them have Muon's here,
        which may favor Muon.
    """,
    follows=r"""
        Eight methods advance to `sphere_finalists`, run at `rung-1` with both rates tuned and with a control for
        MuonSphere's momentum.
    """,
    follow_up=follow_up,
)
