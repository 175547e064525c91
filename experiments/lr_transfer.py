"""At which angle per step Muon, geodesic Muon and Adam train best, from 32 to 256 wide."""

from ngpt.campaign.transfer.definition import Scaled, ScalingRule, Transfer

STUDY = Transfer(
    name="lr_transfer",
    title="The best angle per step against width, for Muon, geodesic Muon and Adam on gated nGPT",
    question="Does the best angle per step depend on width?",
    claim=r"""
        On the sphere a step is an angle. If what a step does to the loss depends on that angle alone, the best rate can
        be found on a narrow model and carried to a wide one by keeping the angle: the same rate for Muon and for
        geodesic steps, and a rate proportional to width^(-1/2) for Adam, whose entries all move by about the rate. The
        competing rule for Adam is that of nuGPT, width^(-3/4) for the rate of hidden matrices
        ([arXiv 2604.27077](https://arxiv.org/abs/2604.27077)), which makes the angle proportional to width^(-1/4).

        Widths from 32 to 256 differ by a factor of 8, over which the two rules differ by 1.7 in the rate. Depth, head
        width, batches and the number of steps are the same at all widths, so wider models see fewer tokens per
        parameter. The auxiliary rate is not tuned: it is the preset's at width 64, and proportional to width^(-1/2),
        on which both rules agree for the embedding. The logit scale starts at the root of the width, as always.

        Prediction: equal angles hold for Muon and both geodesic steps. For Adam equal angles are not ruled out, and
        nuGPT's rule is either ruled out or open: a factor of 1.7 in the rate costs less than 0.02 nats.
    """,
    preset="rung-1",
    fields={"steps": 500, "eval_every": 100, "telemetry_every": 19},
    methods={
        "Muon": Scaled(fields={"optimizer": "muon"}, lr=0.03, exponent=0.0),
        "geodesic, θ = lr": Scaled(fields={"optimizer": "muon", "geodesic_muon": "lr"}, lr=0.03, exponent=0.0),
        "geodesic, θ = lr‖u‖": Scaled(fields={"optimizer": "muon", "geodesic_muon": "lr-norm"}, lr=0.03, exponent=0.0),
        "Adam": Scaled(fields={"optimizer": "adam"}, lr=0.015, exponent=-0.5),
    },
    widths=(32, 64, 128, 256),
    base=64,
    factors=(0.25, 0.5, 1.0, 2.0, 4.0),
    rules=(
        ScalingRule(name="equal angles", exponent=0.0),
        ScalingRule(name="nuGPT", exponent=-0.25, methods=("Adam",)),
    ),
    tolerance=0.125,
)
