"""C7: whether pre-pre-training on cellular automata helps gated nGPT learn, under Muon and under Adam."""

from typing import Any

from ngpt.campaign.definition import Campaign, Contrast, Method
from ngpt.campaign.verdict import Rule

AUTOMATA = "nca:rules=4000,states=4,grid=8,grids=8,ratio_grids=8,ratio_low=0.15"
"""Small enough for the tiny model: 258 tokens, 18 of them a grid, sequences of 144."""
PRETRAINING: dict[str, Any] = {"data": AUTOMATA, "seq_len": 143, "steps": 400, "schedule": "constant"}
FAMILIES: dict[str, tuple[tuple[float, ...], float]] = {
    "Muon": ((0.025, 0.05, 0.1), 0.03),
    "Adam": ((0.008, 0.016, 0.032), 0.01),
}
"""Grid of rates for language, and the rate for automata."""
GAIN = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5)


def named(family: str, *, pretrained: bool) -> str:
    """Name of a method."""
    return f"{family}, {'pre-pretrained' if pretrained else 'from scratch'}"


CAMPAIGN = Campaign(
    name="nca_pretraining",
    title="Pre-pre-training gated nGPT on neural cellular automata, under Muon and under Adam",
    question="Does a model that has seen cellular automata first learn better from the same tokens of text?",
    claim="TODO",
    methods=tuple(
        Method(
            name=named(family, pretrained=pretrained),
            fields={"optimizer": family.lower()},
            lrs=rates,
            family=family,
            pretraining={**PRETRAINING, "lr": lr} if pretrained else None,
        )
        for family, (rates, lr) in FAMILIES.items()
        for pretrained in (False, True)
    ),
    baselines=tuple(named(family, pretrained=False) for family in FAMILIES),
    rule=GAIN,
    further=(
        Contrast(
            name="gain under Muon minus gain under Adam",
            weights={
                named("Muon", pretrained=True): 1.0,
                named("Muon", pretrained=False): -1.0,
                named("Adam", pretrained=True): -1.0,
                named("Adam", pretrained=False): 1.0,
            },
            question="Is the gain larger under Muon than under Adam?",
            rule=GAIN,
        ),
    ),
    comparison_seeds=8,
    fields={"schedule": "wsd", "decay_share": 0.2},
)
