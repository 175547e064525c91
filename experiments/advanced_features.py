"""C4: which of modded-nanogpt's features transfer to nGPT: Polar Express, NorMuon, cautious weight decay."""

from itertools import product
from typing import Any

from ngpt.campaign.definition import Campaign, Contrast, Method
from ngpt.campaign.verdict import Rule

RATES = (0.015, 0.025, 0.04, 0.065, 0.11)
FEATURES: dict[str, dict[str, Any]] = {
    "Polar Express": {"orthogonalizer": "polar-express"},
    "NorMuon": {"normuon": "short-axis"},
    "cautious decay": {"weight_decay": 1.0, "cautious_wd": True},
}
PLAIN = "Newton-Schulz"
RULE = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.01, unit="nats per token", seeds=5)

COMBINATIONS = {
    " + ".join(feature for feature, on in zip(FEATURES, chosen, strict=True) if on) or PLAIN: chosen
    for chosen in product((False, True), repeat=len(FEATURES))
}
"""Which features each method has, by its name."""


def main_effect(feature: str) -> Contrast:
    """Mean over the methods that have the feature, minus the mean over those that do not."""
    place = list(FEATURES).index(feature)
    return Contrast(
        name=f"{feature}, mean effect",
        weights={name: (1 if chosen[place] else -1) * 2 / len(COMBINATIONS) for name, chosen in COMBINATIONS.items()},
        question="Which of modded-nanogpt's features transfer to gated nGPT?",
        rule=RULE,
    )


CAMPAIGN = Campaign(
    name="advanced_features",
    title="Polar Express, NorMuon and cautious weight decay on gated nGPT, at a matched step size",
    question="Does any combination of the features beat plain Muon?",
    claim=(
        "A factorial of three features on Muon with projection every 7 steps. *Polar Express*: five steps of the "
        "minimax polynomials instead of five of the Newton-Schulz quintic. *NorMuon*: rows or columns of O are divided "
        "by the root of their running second moment, $|O|_F$ kept. *Cautious decay*: W loses $\\eta\\lambda\\,1[OW "
        "\\ge 0]\\,W$ with $\\lambda = 1$, the best and the largest of 0.1, 0.3 and 1 in pilot runs; no other feature "
        "had a parameter tuned. O is scaled to $|O|_F = \\sqrt{\\min(m, n)}$ in every arm, before the decay, so that "
        "neither orthogonalizer nor NorMuon is a change of the step's length; the decay itself lengthens the rotation "
        "by about a third, which each method's own rate makes up for (five steps of the earlier attempt's cubic made "
        "it four times shorter and were then compared with Polar Express). On the sphere little is left for two of "
        "them: the polar factor of attention's square matrices has even rows already, so that NorMuon acts on the MLP "
        "alone, where it evens out the vectors' rotations; plain decay would be undone by projection, and only the "
        "masked one has a direction. Predicted: each lowers the loss by 0.01 nats (half a percent) or more; "
        "modded-nanogpt uses all three on an unnormalised GPT. The rate decays linearly over the last 20% of the "
        "steps. Pilot runs: seeds 100 and 101."
    ),
    methods=tuple(
        Method(
            name=name,
            fields={
                field: value
                for feature, on in zip(FEATURES.values(), chosen, strict=True)
                if on
                for field, value in feature.items()
            },
            lrs=RATES,
        )
        for name, chosen in COMBINATIONS.items()
    ),
    baselines=(PLAIN,),
    rule=RULE,
    reading=(
        "Cautious decay lengthens the rotation at an equal rate, and its fitted best rate is lower for it: most of "
        "what it does is another step size, which a comparison at one rate would have taken for a gain at low rates "
        "and for a loss at high ones. NorMuon does what it is for, the vectors' rotations within a matrix spread less, "
        "for a gain that is there and smaller than what was to matter. Polar Express brings the updates closer to "
        "orthogonal and changes the loss by next to nothing: at a matched step size the rest of the quintic's error "
        "costs nothing that shows here."
    ),
    leading=tuple(main_effect(feature) for feature in FEATURES),
    comparison_seeds=8,
    fields={"optimizer": "muon", "match_step": "rms", "schedule": "wsd", "decay_share": 0.2},
)
