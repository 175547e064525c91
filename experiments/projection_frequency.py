"""C3: what it costs to project every K-th step only, and whether Muon needs projection less often than Adam."""

from typing import Any

from ngpt.campaign.definition import Campaign, Contrast, Method
from ngpt.campaign.verdict import Rule

INTERVALS = (1, 3, 5, 7, 10, 15, 20)
FAMILIES: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[int, ...]]] = {
    "Muon": ({"optimizer": "muon"}, (0.025, 0.05, 0.1), INTERVALS),
    "Adam": ({"optimizer": "adam"}, (0.008, 0.016, 0.032), INTERVALS),
    "geodesic Muon": ({"optimizer": "muon", "geodesic_muon": "lr-norm"}, (0.025, 0.05, 0.1), (1, 20)),
}
"""Fields, grid and intervals of each family."""


def named(family: str, interval: int) -> str:
    """Name of a method."""
    return f"{family}, K = {interval}"


CAMPAIGN = Campaign(
    name="projection_frequency",
    title="How often the weights of gated nGPT must be projected, under Muon and under Adam",
    question="Does projecting only every K-th step cost anything against every step?",
    claim=(
        "Between two projections a linear step lets $|w|^2$ grow: $|w|^2 = 1 + \\eta^2|o|^2 - 2\\eta\\langle w, "
        "o\\rangle$ a step. Two things follow. The model computes with vectors that are not unit, which its "
        "normalisations, learned scales and gates partly undo; and the rotation of a step falls to $\\eta|u|/|w|$, "
        "which each K's own best rate makes up for. Muon's orthogonalised step has the same length in every direction, "
        "Adam's can concentrate on few, so that Muon is predicted to need projection less often: the cost of K = 20 "
        "against K = 1 is predicted lower under Muon than under Adam, by 0.02 nats or more. Embedding and head are "
        "moved by AdamW in every arm and drift with K too; geodesic Muon, whose hidden matrices do not drift at all, "
        "shows how much of the cost is theirs. Every K has a grid of three rates of its own, a factor of two apart and "
        "placed by pilot runs on seeds 100 and 101; the rate decays linearly over the last 20% of the steps. Telemetry "
        "is read every 37 steps, a prime, so that no K is always seen at the same phase. A first campaign with 6 "
        "comparison seeds (60000 to 60005) left the first question open by a hair; here are 10 fresh ones."
    ),
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
            name="cost of K = 20 against K = 1, under Muon minus under Adam",
            weights={named("Muon", 20): 1.0, named("Muon", 1): -1.0, named("Adam", 20): -1.0, named("Adam", 1): 1.0},
            question="Does Muon need projection less often than Adam?",
            rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
        ),
    ),
    reading=(
        "Geodesic Muon's hidden matrices do not drift at all, and it pays for a large K what Muon pays, whose hidden "
        "vectors come to a projection much longer than they left the one before. The cost is therefore not the hidden "
        "matrices': nGPT normalises what they compute, and what is left is a slower rotation of longer vectors. It is "
        "that of what all three families move alike, embedding and head, and the head drifts far more than the "
        "embedding; the logits are proportional to the lengths of its vectors. AdamW moves the head under Muon as it "
        "does under Adam, which leaves the hidden matrices little difference to make: there is a small one in Muon's "
        "favour, less than what was to matter. Under Adam a few steps without projection even gain a little. Who wants "
        "to project less often should look at the head first: this campaign does not separate it from the embedding."
    ),
    axis="steps between projections, K",
    comparison_seeds=10,
    fields={"schedule": "wsd", "decay_share": 0.2},
)
