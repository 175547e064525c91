"""Whether pre-training on cellular automata helps gated nGPT learn text, under Muon and under Adam."""

from typing import Any

from experiments.first_regime import FIRST_REGIME
from ngpt.campaign.definition import AtScale, Campaign, Contrast, Method, Rule

AUTOMATA = "nca:rules=4000,states=4,grid=8,grids=8,ratio_grids=8,ratio_low=0.15"
"""Automata small enough for the tiny model: 258 tokens (about as many as bytes), 18 per grid, sequences of 144."""
PRETRAINING: dict[str, Any] = {"data": AUTOMATA, "seq_len": 143, "steps": 500, "eval_every": 100}
FAMILIES: dict[str, tuple[tuple[float, ...], float]] = {
    "Muon": ((0.015, 0.03, 0.06, 0.12), 0.03),
    "Adam": ((0.004, 0.008, 0.016, 0.032), 0.01),
}
"""Grid of learning rates for text, and the learning rate for automata."""
AT_RUNG_1 = {"Muon": (0.01, 0.02, 0.04), "Adam": (0.005, 0.01, 0.02)}
"""Grid of learning rates for text in longer runs"""

HELPS = "Does a model pre-trained on cellular automata learn better from the same tokens of text?"
MORE = "Does automata pre-training help more, or hurt less, under Muon than under Adam?"
GAIN = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5)


def named(family: str, *, pretrained: bool) -> str:
    """Return the name of a method."""
    return f"{family}, {'pre-pretrained' if pretrained else 'from scratch'}"


CAMPAIGN = Campaign(
    name="nca_pretraining",
    title="Pre-training gated nGPT on neural cellular automata, under Muon and under Adam",
    question=HELPS,
    claim=r"""
        Before it sees text, a model is trained on trajectories of neural cellular automata. Each sequence follows a
        rule of its own, which must be inferred in context: next state
        $\sim \mathrm{softmax}(f(\text{3x3 neighborhood})/T)$ with f a random network specific to the rule (arXiv
        2603.10055). Then all weights except embedding and head are kept, and training on text begins. (The paper calls
        this pre-pre-training, hence *pre-pretrained* in the methods' names.) The paper reports up to 6% lower
        perplexity and 1.4 to 1.6 times faster convergence with Adam on a 1.6B-parameter Llama after 164M tokens of
        automata; independent replications with other models found that it hurts. On the sphere, weights have no size to
        carry over, only directions. Prediction, following the paper: after equal steps on the same text, the loss is
        lower than from scratch by 0.02 nats or more, under Muon and under Adam.

        The automata here have 4 states on 8 x 8 cells instead of 10 on 12 x 12, which makes a grid 18 tokens and the
        vocabulary 258. Each of 4,000 rules is seen once, at learning rates for automata that were not tuned. Every
        method chooses its rate for text from its own grid. Steps and training time count the text only; the automata
        come on top. Rotary positions do not depend on the context length, so 143 tokens of automata and 64 of text fit
        the same model.
    """,
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
            name="change under Muon minus change under Adam",
            weights={
                named("Muon", pretrained=True): 1.0,
                named("Muon", pretrained=False): -1.0,
                named("Adam", pretrained=True): -1.0,
                named("Adam", pretrained=False): 1.0,
            },
            question=MORE,
            rule=GAIN,
        ),
    ),
    reading=r"""
        The automata are learned: on rules that appear in no training sequence the loss falls far below that of a
        uniform guess, further under Muon than under Adam. What is learned does not help this model with text; it hurts.
        At first the training loss on text is lower after automata than from scratch. By the first validation, a fifth
        of the way, the model is behind, and it stays behind, under both optimizers. The automata enlarge the residual
        steps and gates, and these stay enlarged throughout the text. Pre-training costs Muon less than Adam. Both
        optimizers rotate their vectors as fast as from scratch, so slower steps are not the cause. Independent
        replications found harm without a sphere; here it appears on the sphere too.
    """,
    does_not_show=r"""
        The runs are limited by the logit scale, which starts at one here: much of what they measure is how fast AdamW
        can raise it. The model, its pre-training and the text are far smaller than in the paper, so this experiment
        says nothing about the paper's own claim.
    """,
    follows=r"""
        The same question in longer runs, without that limit, has a report at `rung-1`.
    """,
    at_scale={
        "rung-1": AtScale(
            lrs={
                named(family, pretrained=pretrained): rates
                for family, rates in AT_RUNG_1.items()
                for pretrained in (False, True)
            },
            aux_lrs=(0.0025, 0.005, 0.01, 0.02),
            fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
            comparison_seeds=8,
            predicted={HELPS: "not lower", MORE: "level"},
            claim=r"""
                The logit scale starts at the square root of the width, rates fall linearly to zero, and runs see 20
                tokens of text per non-embedding parameter, after as many steps on automata as at `tiny`. Each method is
                tuned over the hidden and then over the auxiliary rate, on text.

                Prediction: automata do not help here either, and what they cost does not differ by what matters between
                Muon and Adam. Beyond the rule: they cost less than at `tiny`.
            """,
            reading=r"""
                Automata do not help here either: under both optimizers a gain that would matter is excluded, as
                predicted. The loss ends higher on nearly every seed, on average by just about the amount that matters.
                Neither cost stands out from noise: Adam's interval contains zero, and Muon's is not significant once
                both comparisons are counted. The mean cost is lower than at `tiny`, as predicted: clearly so under
                Adam, within the noise under Muon. On average it is the same under both optimizers, but the interval
                does not exclude a difference that matters, so the prediction that they are level is not confirmed.

                Under Muon a model is ahead after automata at the first validation, and behind on average from the
                second. Under Adam it is behind on average at every validation, by less and less toward the end.
            """,
            does_not_show=r"""
                Whether automata cost enough to matter. What they would do if the rates and the length of pre-training
                were tuned, or in a larger model: the paper's has about 12,000 times as many parameters.
            """,
            follows=r"""
                At this size there is no reason to pre-train on automata. The paper's claim needs a larger model and
                longer pre-training, on a GPU.
            """,
        ),
    },
    comparison_seeds=8,
    fields={**FIRST_REGIME},
)
