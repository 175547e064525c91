"""C7: whether pre-pre-training on cellular automata helps gated nGPT learn, under Muon and under Adam."""

from typing import Any

from ngpt.campaign.definition import Campaign, Contrast, Method
from ngpt.campaign.verdict import Rule

AUTOMATA = "nca:rules=4000,states=4,grid=8,grids=8,ratio_grids=8,ratio_low=0.15"
"""Automata small enough for the tiny model: 258 tokens, nearly as many as bytes, 18 a grid, sequences of 144."""
PRETRAINING: dict[str, Any] = {"data": AUTOMATA, "seq_len": 143, "steps": 500, "eval_every": 100}
FAMILIES: dict[str, tuple[tuple[float, ...], float]] = {
    "Muon": ((0.015, 0.03, 0.06, 0.12), 0.03),
    "Adam": ((0.004, 0.008, 0.016, 0.032), 0.01),
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
    claim=(
        "Before its text, a model is trained on trajectories of neural cellular automata, one rule a sequence, which "
        "must be inferred in context: next state $\\sim \\mathrm{softmax}(f(\\text{3x3 neighbourhood})/T)$ with f a "
        "random network of each rule's own (arXiv 2603.10055). Then all weights but embedding and head are kept, and "
        "the text begins. The paper reports up to 6% lower perplexity and 1.4 to 1.6 times faster convergence with "
        "Adam on a Llama of 1.6B parameters after 164M tokens of automata; independent replications with other models "
        "found a loss instead of a gain. On the sphere weights have no size to carry over, only directions. Predicted, "
        "as the paper has it: after equal steps on the same text the loss is lower by 0.02 nats or more than from "
        "scratch, under Muon and under Adam. Automata here have 4 states on 8 x 8 cells instead of 10 on 12 x 12, so "
        "that a grid is 18 tokens and the vocabulary 258; 4,000 rules are each seen once, at rates for automata that "
        "were not tuned. Every method chooses its rate for text from a grid of its own; steps and training time are "
        "those of the text, and the automata come on top. Rotary positions know no length of context, so that 143 "
        "tokens of automata and 64 of text fit one model."
    ),
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
            question="Does it do more good, or less harm, under Muon than under Adam?",
            rule=GAIN,
        ),
    ),
    reading=(
        "The automata are learned: the loss on rules that no training sequence had falls far below that of a guess, "
        "and Muon's falls further than Adam's. What is learned does not help this model with text, it costs. The first "
        "steps on text are a little faster after automata than from scratch, and then fall behind and stay there, "
        "under both optimizers. The residual steps and gates, which the automata have enlarged, stay so throughout the "
        "text. Muon loses less than Adam; both rotate their vectors as fast as from scratch, so that it is not a "
        "matter of slower steps. The independent replications that found no gain had no sphere; this one has, at a "
        "size and with a number of tokens far below the paper's, so that it says nothing of those."
    ),
    comparison_seeds=8,
    fields={"schedule": "wsd", "decay_share": 0.2},
)
