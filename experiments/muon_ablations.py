"""C5: one change of Muon at a time, at a fixed training time: momentum, Newton-Schulz steps, beta2, AdamW instead."""

from typing import Any

from ngpt.campaign.definition import Campaign, Method
from ngpt.campaign.verdict import Rule

RATES = (0.025, 0.05, 0.1)
RAMP: dict[str, Any] = {"momentum_start": 0.85, "momentum": 0.95, "momentum_warmup_steps": 300}
MUON: dict[str, Any] = {"optimizer": "muon", "normuon": "short-axis", "beta2": 0.95, "ns_steps": 5, **RAMP}
BASELINE = "Muon"


def changed(name: str, leaves_out: str = "", **change: Any) -> Method:
    """The baseline with one change; None takes a field out."""
    fields = {field: value for field, value in (MUON | change).items() if value is not None}
    return Method(name=name, fields=fields, lrs=RATES, leaves_out=leaves_out)


def adamw(name: str, *lrs: float) -> Method:
    """AdamW for the hidden matrices too."""
    return Method(name=name, fields={"optimizer": "adam"}, lrs=lrs, leaves_out="the polar factor: AdamW moves it all")


CAMPAIGN = Campaign(
    name="muon_ablations",
    title="What of Muon's settings matters on gated nGPT, at equal training time",
    question="Does any one change of Muon's settings, or AdamW in its place, end lower at equal training time?",
    claim=(
        "The baseline is Muon as speed runs use it: five Newton-Schulz steps, NorMuon's variance reduction with "
        "$\\beta_2 = 0.95$, and a momentum that rises from 0.85 to 0.95 over 300 steps. Each arm changes one thing of "
        "it, in the order in which the table of this campaign says to try them. Every run has the same seconds of "
        "training, so that a cheaper step is made more often: three Newton-Schulz steps save two fifths of the "
        "orthogonaliser's products, and are predicted to gain by it. The metric is bits per byte, 0.02 of them are to "
        "matter. Every arm chooses its rate from the same grid of three; ABL-1 and ABL-2 keep the rates that the table "
        "gives them, and *AdamW, tuned* shows what AdamW does at a rate of its own from a grid of that size. The "
        "original budget is 300 seconds on a GPU, some thousand steps (`--budget-seconds 300`). The default here is "
        "short enough for a CPU, and its few hundred steps end while the longer ramps are still rising: what is "
        "compared there is a low momentum against a lower one. On a CPU the clock is that of each process, and as many "
        "runs as there are arms share the cores, so that all arms of a seed meet the same spells of the machine: a "
        "first campaign by the wall clock, two runs at a time, on seeds 80000 to 80007, had intervals of 0.04 to 0.12 "
        "bits to either side, because one process alone makes 170 to 199 steps in five seconds here."
    ),
    methods=(
        changed(BASELINE),
        changed("NS-1: 3 Newton-Schulz steps", "two of five Newton-Schulz steps", ns_steps=3),
        changed(
            "MM-5: momentum 0.95 throughout", "the momentum's ramp", momentum_start=None, momentum_warmup_steps=None
        ),
        changed("MM-1: ramp 0.90 to 0.95", momentum_start=0.90),
        changed("MM-3: ramp over 150 steps", momentum_warmup_steps=150),
        changed("MB-2: β₂ = 0.99", beta2=0.99),
        adamw("ABL-1: AdamW at 0.04", 0.04),
        changed("MM-2: ramp 0.85 to 0.99", momentum=0.99),
        changed("MM-4: ramp over 600 steps", momentum_warmup_steps=600),
        changed("NS-2: 7 Newton-Schulz steps", ns_steps=7),
        changed("MB-1: β₂ = 0.9", beta2=0.9),
        changed("MB-3: β₂ = 0.999", beta2=0.999),
        adamw("ABL-2: AdamW at 0.001", 0.001),
        adamw("AdamW, tuned", 0.008, 0.016, 0.032),
    ),
    baselines=(BASELINE,),
    rule=Rule(metric="final_val_bpb", predicted="lower", smallest_effect=0.02, unit="bits per byte", seeds=5),
    reading=(
        "Three Newton-Schulz steps win on the clock by being made more often: at equal steps they are neither better "
        "nor worse than five, though they leave an update less orthogonal; seven lose for the same reason. How much "
        "there is to win is a matter of the machine: here the orthogonaliser is a large share of a small model's step. "
        "The momentum's ramp earns its place: without it, or shorter, the loss ends higher, at equal steps as at equal "
        "time, and no arm with a longer or higher one is shown to gain, in runs that end before it does. β₂ changes "
        "nothing that these seeds can see. AdamW at the table's two rates loses, since neither is near its best; at a "
        "rate of its own it ends level with Muon here: each of its steps is worth much less, and it makes a third more "
        "of them. Where the polar factor costs next to nothing, the column of equal steps is what is left, and there "
        "Muon is far ahead."
    ),
    comparison_seeds=9,
    fields={"schedule": "wsd", "decay_share": 0.2},
    budget_seconds=5.0,
)
