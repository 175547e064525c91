"""Which modded-nanogpt features transfer to nGPT: Polar Express, NorMuon, cautious weight decay."""

from itertools import product
from typing import Any

from experiments.first_regime import FIRST_REGIME
from ngpt.campaign.definition import AtScale, Campaign, Contrast, Method, Rule

RATES = (0.015, 0.025, 0.04, 0.065, 0.11)
FEATURES: dict[str, dict[str, Any]] = {
    "Polar Express": {"orthogonalizer": "polar-express"},
    "NorMuon": {"normuon": "short-axis"},
    "cautious decay": {"weight_decay": 1.0, "cautious_wd": True},
}
PLAIN = "Newton-Schulz"
RULE = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.01, unit="nats per token", seeds=5)

TRANSFER = "Which of modded-nanogpt's features transfer to gated nGPT?"

COMBINATIONS = {
    " + ".join(feature for feature, on in zip(FEATURES, chosen, strict=True) if on) or PLAIN: chosen
    for chosen in product((False, True), repeat=len(FEATURES))
}
"""Which features each method has, by method name."""


def main_effect(feature: str) -> Contrast:
    """Return the mean over methods with the feature minus the mean over those without it."""
    place = list(FEATURES).index(feature)
    return Contrast(
        name=f"{feature}, mean effect",
        weights={name: (1 if chosen[place] else -1) * 2 / len(COMBINATIONS) for name, chosen in COMBINATIONS.items()},
        question=TRANSFER,
        rule=RULE,
    )


CAMPAIGN = Campaign(
    name="advanced_features",
    title="Polar Express, NorMuon and cautious weight decay on gated nGPT, at a matched step size",
    question="Does any combination of the features beat plain Muon?",
    claim=r"""
        Three features on Muon (*Newton-Schulz*) with projection every 7 steps: at `tiny` a factorial. *Polar Express*:
        five iterations of the minimax polynomials instead of five of the Newton-Schulz quintic. *NorMuon*: the rows or
        columns of O are divided by the root of their running second moment, with $|O|_F$ preserved. *Cautious decay*: W
        loses $\eta\lambda\,1[OW \ge 0]\,W$ with $\lambda = 1$, the best and the largest of 0.1, 0.3 and 1 in pilot
        runs; no other feature had a parameter tuned.

        In every arm O is scaled to $|O|_F = \sqrt{\min(m, n)}$ before the decay, so neither the orthogonalizer nor
        NorMuon changes the length of the step. The decay itself lengthens the rotation by about a third, which each
        method's own rate compensates. (Five iterations of the cubic used in the earlier public attempt
        (dnhkng/nGPT-muon) made the step four times shorter, and the earlier attempt compared Polar Express with this
        shortened step.) On the sphere, two of the features have little left to do. The polar factor of attention's
        square matrices already has rows of equal length, so NorMuon acts on the MLP alone, where it evens out the
        rotations of the vectors. Plain decay would be undone by projection; only cautious decay has a direction.

        Prediction at `tiny`: each feature lowers the loss by 0.01 nats (half a percent) or more; modded-nanogpt uses
        all three on an unnormalized GPT. There the rate decays linearly over the last 20% of the steps. Pilot runs:
        seeds 100 and 101.
    """,
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
    reading=r"""
        Cautious decay lengthens the rotation at a given rate, and its fitted best rate is lower as a result. Most of
        what it does is change the step size: a comparison at a single rate would have shown a gain at low rates and a
        loss at high ones. NorMuon does what it is meant to do: the rotations of the vectors within a matrix spread
        less. The gain is real, but smaller than the smallest effect that matters. Polar Express brings the updates
        closer to orthogonal and leaves the loss almost unchanged: at a matched step size, the quintic's remaining error
        costs nothing measurable here.
    """,
    does_not_show=r"""
        The runs are limited by the logit scale, which starts at one here: much of what they measure is how fast AdamW
        can raise it. Steps are compared at a matched size, so a gain that comes from the size of the steps alone is
        not counted.
    """,
    follows=r"""
        No feature becomes a default. NorMuon's gain is looked at again at `rung-1`.
    """,
    at_scale={
        "rung-1": AtScale(
            lrs=dict.fromkeys((PLAIN, *FEATURES), (0.01, 0.02, 0.04, 0.08))
            | {"cautious decay": (0.005, 0.01, 0.02, 0.04)},
            aux_lrs=(0.0025, 0.005, 0.01, 0.02),
            fields={
                "optimizer": "muon",
                "match_step": "rms",
                "schedule": "linear",
                "aux_lr": 0.01,
                "aux_lr_ratio": None,
            },
            comparison_seeds=8,
            question=TRANSFER,
            predicted={TRANSFER: "not lower"},
            claim=r"""
                The logit scale starts at the square root of the width, rates fall linearly to zero, and runs see 20
                tokens per non-embedding parameter. Each feature is tried alone, tuned over the hidden and then over the
                auxiliary rate, around Muon's best rates in `sphere_finalists`. Cautious decay
                also rotates the vectors: all its rates were halved after tuning had begun, because the lowest, 0.01,
                was best. No comparison run had been made.

                Prediction: none ends 0.01 lower than plain Muon; NorMuon comes closest, as at `tiny`.
            """,
            reading=r"""
                None of the three gains 0.01: every interval excludes it. NorMuon has the lowest mean, as at `tiny`, but
                here its interval contains zero. Cautious decay is level with plain Muon at a lower rate of its own.
                Polar Express is no better than Newton-Schulz; whether it costs 0.01 is narrowly undecided. All of this
                is at equal norm of the update, so only its direction can help.
            """,
            does_not_show=r"""
                What the features do together, at a larger size or on another text; whether they gain on a model without
                unit vectors; or what a step of another size does.
            """,
            follows=r"""
                No feature becomes a default. `gpt_control` asks whether they gain on a GPT of the same size, which
                decides whether anything failed to transfer.
            """,
        ),
    },
    leading=tuple(main_effect(feature) for feature in FEATURES),
    comparison_seeds=8,
    fields={"optimizer": "muon", "match_step": "rms", **FIRST_REGIME},
)
