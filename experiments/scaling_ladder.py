"""Muon, geodesic Muon and Adam up the ladder of presets, each rung forecast from those below before its first run."""

from ngpt.campaign.definition import AtScale, Campaign, Method, Rule

CAMPAIGN = Campaign(
    name="scaling_ladder",
    title="Muon, geodesic Muon and Adam on the ladder of sizes",
    question="Which method ends lower than Adam?",
    claim=r"""
        Every rung of the ladder has 20 training tokens for each entry of a hidden matrix, so that a rung is larger and
        trained longer in the same proportion. At `rung-1` each method is tuned over its hidden rate and then over the
        auxiliary rate. At `rung-2` it is tuned over three hidden rates around those that turn the vectors by the same
        angles, at an auxiliary rate that is near the best for all three. At `rung-3` nothing is tuned: rates are
        carried over.

        Muon against Adam and Muon with a geodesic step against Adam are what `muon_lr_sweep` and `geodesic_muon` ask at
        one size each; here the sizes are what is varied. No rule of `sphere_finalists` was better than Muon, so there
        is no fourth method.

        Prediction: both Muons end lower than Adam at every rung, by about as much at `rung-2` as at `rung-1`, and the
        geodesic step is level with projection.
    """,
    preset="rung-1",
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.01, 0.02, 0.04, 0.08)),
        Method(
            name="geodesic Muon", fields={"optimizer": "muon", "geodesic_muon": "lr-norm"}, lrs=(0.01, 0.02, 0.04, 0.08)
        ),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.005, 0.01, 0.02, 0.04)),
    ),
    aux_lrs=(0.0025, 0.005, 0.01, 0.02),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
    fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
    comparison_seeds=8,
    at_scale={
        "rung-2": AtScale(
            lrs={"Muon": (0.01, 0.02, 0.04), "geodesic Muon": (0.01, 0.02, 0.04), "Adam": (0.004, 0.008, 0.016)},
            comparison_seeds=5,
            claim=r"""
                At three times the parameters and eleven times the operations of a run at `rung-1`, the lead of both
                Muons over Adam is predicted to be between 0.04 and 0.08.
            """,
        ),
        "rung-3": AtScale(
            lrs={"Muon": (0.02,), "geodesic Muon": (0.02,), "Adam": (0.007,)},
            comparison_seeds=5,
            forecast_from=("rung-1", "rung-2"),
            claim=r"""
                Rates turn the vectors by the same angles as the best at `rung-1`: the same for Muon, and for Adam
                proportional to the square root of one over the width. The effects are forecast from the two rungs
                below; the forecast and its band are below, beside what came.
            """,
        ),
    },
)
