"""The cost of projecting only every K-th step, and whether Muon needs projection less often than Adam."""

from typing import Any

from experiments.first_regime import FIRST_REGIME
from ngpt.campaign.definition import AtScale, Campaign, Contrast, Method, Rule

INTERVALS = (1, 3, 5, 7, 10, 15, 20)
FAMILIES: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[int, ...]]] = {
    "Muon": ({"optimizer": "muon"}, (0.025, 0.05, 0.1), INTERVALS),
    "Adam": ({"optimizer": "adam"}, (0.008, 0.016, 0.032), INTERVALS),
    "geodesic Muon": ({"optimizer": "muon", "geodesic_muon": "lr-norm"}, (0.025, 0.05, 0.1), (1, 20)),
}
"""Configuration fields, grid of rates and projection intervals of each family."""


COST = "Does projecting only every K-th step cost anything compared with every step?"
LESS_OFTEN = "Does Muon need projection less often than Adam?"

AT_RUNG_1: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "Muon": ((0.01, 0.02, 0.04), (1, 7, 20)),
    "Adam": ((0.005, 0.01, 0.02), (1, 7, 20)),
    "geodesic Muon": ((0.01, 0.02, 0.04), (1, 20)),
}
"""Grid of rates and projection intervals of each family at `rung-1`"""


def named(family: str, interval: int) -> str:
    """Return the name of a method."""
    return f"{family}, K = {interval}"


CAMPAIGN = Campaign(
    name="projection_frequency",
    title="How often the weights of gated nGPT must be projected, under Muon and under Adam",
    question=COST,
    claim=r"""
        Between two projections a linear step lets $|w|^2$ grow: after one step
        $|w|^2 = 1 + \eta^2|o|^2 - 2\eta\langle w, o\rangle$. This has two consequences. The model computes with vectors
        that are not unit vectors, which its normalizations, learned scales and gates partly undo; and the rotation per
        step falls to $\eta|u|/|w|$, which the best rate for each K compensates. Muon's orthogonalized step has the same
        length in every direction, while Adam's can concentrate on a few, so Muon is predicted to need projection less
        often: the cost of K = 20 against K = 1 is predicted to be lower under Muon than under Adam, by 0.02 nats or
        more.

        Embedding and head are updated by AdamW in every arm and drift with K too. Geodesic Muon, whose hidden matrices
        do not drift at all, shows how much of the cost is theirs. Every K chooses its rate from its family's grid of
        three, a factor of two apart and placed by pilot runs on seeds 100 and 101. The rate decays linearly over the
        last 20% of the steps. Telemetry is recorded every 37 steps, a prime, so that no K is always seen at the same
        phase. A first campaign with 6 comparison seeds (60000 to 60005) left the first question open by a hair; this
        one uses 10 fresh seeds.
    """,
    methods=tuple(
        Method(
            name=named(family, interval),
            fields={**fields, "lazy_proj_freq": interval},
            lrs=rates,
            family=family,
            position=interval,
        )
        for family, (fields, rates, intervals) in FAMILIES.items()
        for interval in intervals
    ),
    baselines=tuple(named(family, 1) for family in FAMILIES),
    rule=Rule(metric="final_val_loss", predicted="higher", smallest_effect=0.02, unit="nats per token", seeds=5),
    leading=(
        Contrast(
            name="cost of K = 20 under Muon minus under Adam",
            weights={named("Muon", 20): 1.0, named("Muon", 1): -1.0, named("Adam", 20): -1.0, named("Adam", 1): 1.0},
            question=LESS_OFTEN,
            rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
        ),
    ),
    reading=r"""
        Geodesic Muon's hidden matrices do not drift at all, yet a large K costs it as much as it costs Muon, whose
        hidden vectors are much longer when a projection comes than they were after the previous one. So the hidden
        matrices are not what causes the cost: nGPT normalizes what they compute, and the only remaining effect is that
        longer vectors rotate more slowly. The cost comes from what all three families update alike, embedding and head.
        The head drifts far more than the embedding, and the logits are proportional to the lengths of its vectors.
        AdamW updates the head under Muon as it does under Adam, so the hidden matrices have little room to make a
        difference. There is one in Muon's favor, smaller than the smallest effect that matters. Under Adam a few steps
        without projection even help a little. Anyone who wants to project less often should look at the head first;
        this campaign does not separate it from the embedding.
    """,
    does_not_show=r"""
        The runs are limited by the logit scale, which starts at one here: much of what they measure is how fast AdamW
        can raise it. The cost of a large K comes with the head, whose vectors it lets grow, so it may not be there
        with a logit scale that starts higher.
    """,
    follows=r"""
        Projecting every seven steps, the default, costs nothing that matters here. The campaign is made again at
        `rung-1`, with a logit scale that starts at the square root of the width.
    """,
    at_scale={
        "rung-1": AtScale(
            lrs={named(family, k): rates for family, (rates, ks) in AT_RUNG_1.items() for k in ks},
            aux_lrs=(0.0025, 0.005, 0.01, 0.02),
            fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
            comparison_seeds=9,
            predicted={COST: "not higher", LESS_OFTEN: "not lower"},
            claim=r"""
                The logit scale starts at the square root of the width, rates fall linearly to zero, and runs see 20
                tokens per non-embedding parameter. Fewer intervals are tried, each tuned over the hidden and then over
                the auxiliary rate, around the best rates of both optimizers in `muon_lr_sweep` at `rung-1`.

                A first round, with auxiliary rates from 0.005 up and seeds 80000 to 80007 to compare, left nearly every
                answer undecided: all effects were within 0.007, but the best auxiliary rate of most methods was the
                lowest one tried. So the grid is longer here, and the seeds to compare on are new.

                Prediction, from a few pilot runs at `tiny` with this logit scale, where a larger K cost nothing: no K
                ends higher by 0.02, in any family, and so Muon does not need projection less often than Adam.
            """,
            reading=r"""
                Where runs are long and no logit scale limits them, it does not matter how often the weights are
                projected, up to every twentieth step, under Muon, under Adam, or with a geodesic step. What rarer
                projection cost at `tiny` is gone. The runs at `tiny` had another logit scale, length, schedule and
                tuning, and no run here tells which of these the cost came from. The second round settles what the first
                one left open for a rate at the edge of its grid.
            """,
            does_not_show=r"""
                That projection can be left out altogether, that a larger K is harmless at a higher rate than the best,
                or that this holds at another size or on another text.
            """,
            follows=r"""
                The default of seven steps stays: nothing is gained by more frequent projection, and little time by
                rarer.
            """,
        ),
    },
    axis="steps between projections, K",
    comparison_seeds=10,
    fields={**FIRST_REGIME},
)
