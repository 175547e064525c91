"""The best of all rules and optimizers once more, at `rung-1`: longer runs, both rates tuned, other seeds."""

from experiments.sphere_optimizers import CANDIDATES, FACTORS, MUON
from ngpt.campaign.definition import Campaign, Contrast, Method, Rule, noise_of, on_other_batches

BEST_AT_TINY = {
    "Muon": 0.06,
    "MuonSphere": 0.03,
    "NorMuon": 0.06,
    "NorMuon on the MLP": 0.06,
    "Muon, Tail-EMA": 0.06,
    "SOAP": 0.036,
    "geodesic Muon": 0.06,
    "Kaon": 0.11,
}
"""The methods that `sphere_optimizers` sends here, with the hidden rates that they chose there"""

MUON_HERE = 0.02
"""Middle of Muon's grid: the default at `rung-1`"""

SHORTER = "Muon, momentum 0.9"
GAIN = Rule(metric="final_val_loss", predicted="not lower", smallest_effect=0.02, unit="nats per token", seeds=5)


def tuned(name: str, fields: dict[str, object], best: float) -> Method:
    """Return a method with a grid around its best rate at `tiny`, scaled as Muon's best rate is from there to here."""
    middle = best * MUON_HERE / BEST_AT_TINY["Muon"]
    return Method(name=name, fields=fields, lrs=tuple(float(f"{factor * middle:.2g}") for factor in FACTORS))


METHODS = [tuned(name, CANDIDATES[name][0], best) for name, best in BEST_AT_TINY.items()]
CONTROL = tuned(SHORTER, {**MUON, "momentum": 0.9}, BEST_AT_TINY["Muon"])
AGAIN = on_other_batches(METHODS[0])

CAMPAIGN = Campaign(
    name="sphere_finalists",
    title="The best rules and optimizers on gated nGPT, in longer runs with both rates tuned",
    question="Which of the best of `sphere_optimizers` end lower than Muon?",
    claim=r"""
        `sphere_optimizers` compared twenty-one rules and optimizers at `tiny` and, by a rule fixed before, sends eight
        of them here: Muon and the seven others with the lowest mean loss. Runs at `rung-1` see 20 tokens for each
        non-embedding parameter instead of 1.4. Each method is tuned over five hidden rates around the one that it chose
        at `tiny`, a third as large as there because Muon's is, and then over the auxiliary rate.

        *MuonSphere* has the lowest loss at `tiny`. As published, it averages gradients for a shorter time than Muon
        (momentum 0.9 instead of 0.95). In `which_sphere`, with 0.95, it lost to Muon. *Muon, momentum 0.9* is here to
        tell the sphere from the momentum.

        *Other batches* is Muon again on the same data in another order: the size of noise.

        Forecast, written before the first run here. No method ends lower than Muon by 0.02 nats per token or more. The
        mean loss of MuonSphere ends between 0.02 below Muon's and 0.01 above it, of geodesic Muon, Tail-EMA, Kaon and
        both kinds of NorMuon within 0.01 of it, and of SOAP between 0 and 0.04 above it: at `tiny` it was level, with
        its best rate at the end of its grid. MuonSphere and *Muon, momentum 0.9* end within 0.02 of each other.
    """,
    methods=(*METHODS, CONTROL, AGAIN),
    baselines=("Muon", AGAIN.name),
    rule=GAIN,
    further=(
        Contrast(
            name=f"MuonSphere against {SHORTER}",
            weights={"MuonSphere": 1.0, SHORTER: -1.0},
            question="Does MuonSphere end lower than Muon with the same momentum?",
            rule=GAIN,
        ),
        noise_of(METHODS[0], GAIN),
    ),
    preset="rung-1",
    fields={"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None},
    aux_lrs=(0.0025, 0.005, 0.01),
    reading=r"""
        In longer runs nothing is left of the order that `tiny` showed: the mean losses of all methods lie within a
        third of what matters of Muon's. MuonSphere's lead was its momentum. With the same momentum Muon ends level
        with it, and neither is shown to differ from Muon as it usually is.

        By the rule most answers stay open all the same. Muon and most of the others prefer the largest auxiliary rate
        that was tried, so a larger one might be better for some of them. To change an answer it would have to help one
        of the two by more than what matters and the other not at all.

        Of the forecast, all came true but one: SOAP's mean ends slightly lower than Muon's, not higher.
    """,
    does_not_show=r"""
        Which of these is best at another size, on another text or in still longer runs; differences smaller than what
        matters; or what they cost: SOAP, Kaon and MuonSphere take more time for a step here.
    """,
    follows=r"""
        None of them replaces Muon as the default. A lower momentum for Muon and a larger auxiliary rate for all are
        worth trying together at the next size.
    """,
    tuning_seeds=2,
    comparison_seeds=8,
)
