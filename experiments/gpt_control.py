"""A GPT beside nGPT: whether Muon leads there too, and which features of modded-nanogpt gain on which of the two."""

from experiments.advanced_features import FEATURES
from ngpt.campaign.definition import Campaign, Contrast, Method, Rule

ARCHITECTURES = {"GPT": "gpt", "nGPT": "gated-ngpt"}
MUON_RATES = {"GPT": (0.005, 0.01, 0.02, 0.04), "nGPT": (0.005, 0.01, 0.02, 0.04)}
ADAM_RATES = {"GPT": (0.0025, 0.005, 0.01, 0.02), "nGPT": (0.0025, 0.005, 0.01, 0.02)}
TRIED = {name: FEATURES[name] for name in ("NorMuon", "cautious decay")}
"""Features that change an update by more than the accuracy of its polar factor"""

LEAD = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5)
GAIN = Rule(metric="final_val_loss", predicted=None, smallest_effect=0.01, unit="nats per token", seeds=5)
LESS = Rule(metric="final_val_loss", predicted="higher", smallest_effect=0.01, unit="nats per token", seeds=5)


def methods(model: str) -> list[Method]:
    """Return Muon, Muon with each feature, and Adam on an architecture; Adam is a family of its own."""
    arch = {"arch": ARCHITECTURES[model]}
    muon = {**arch, "optimizer": "muon", "match_step": "rms"}
    rates = MUON_RATES[model]
    return [
        Method(name=f"{model}: Muon", fields=muon, lrs=rates, family=model),
        *(
            Method(name=f"{model}: {feature}", fields={**muon, **fields}, lrs=rates, family=model)
            for feature, fields in TRIED.items()
        ),
        Method(
            name=f"{model}: Adam", fields={**arch, "optimizer": "adam"}, lrs=ADAM_RATES[model], family=f"{model}, Adam"
        ),
    ]


def lead(model: str) -> Contrast:
    """Return Muon against Adam on an architecture."""
    return Contrast(
        name=f"Muon against Adam on {model}",
        weights={f"{model}: Muon": 1.0, f"{model}: Adam": -1.0},
        question="Does Muon beat a tuned Adam on both architectures?",
        rule=LEAD,
    )


def difference(name: str, one: str, other: str, question: str) -> Contrast:
    """Return (one - other) on nGPT minus the same on GPT."""
    return Contrast(
        name=f"{name}, nGPT minus GPT",
        weights={f"nGPT: {one}": 1.0, f"nGPT: {other}": -1.0, f"GPT: {one}": -1.0, f"GPT: {other}": 1.0},
        question=question,
        rule=LESS,
    )


CAMPAIGN = Campaign(
    name="gpt_control",
    title="Muon and features of modded-nanogpt on a GPT beside gated nGPT",
    question="Which of modded-nanogpt's features gain on which architecture?",
    claim=r"""
        Muon and the features of `advanced_features` come from speedruns of a GPT without unit vectors. Whether they
        transfer *to* nGPT is a question about both architectures: a feature that gains on neither has not failed to
        transfer. So the same methods run on a GPT control of the same depth and width, without unit vectors, and on
        gated nGPT, on the same batches. Polar Express is left out: on nGPT it made no difference that matters at
        `rung-1`, and it changes only how exact the polar factor is. Every method is tuned over the hidden and then over
        the auxiliary rate. As in `advanced_features`, each update of Muon has the norm of an exact polar factor, so
        that a feature does not gain by longer steps. On both architectures Adam's beta1 is that of the ladder, which
        was tuned for nGPT.

        Pilot runs of the GPT (seed 100) placed its grids.

        Prediction: Muon beats Adam on both architectures, by more on the GPT, where the length of a step also decides
        how much the weights grow. NorMuon and cautious decay gain about 0.01 on the GPT and less on nGPT, on which
        projection already evens out the vectors.
    """,
    preset="rung-1",
    methods=tuple(method for model in ARCHITECTURES for method in methods(model)),
    baselines=tuple(f"{model}: {name}" for model in ARCHITECTURES for name in ("Muon", "Adam")),
    rule=GAIN,
    leading=(
        *map(lead, ARCHITECTURES),
        difference("Muon's lead", "Muon", "Adam", "Is Muon's lead over Adam smaller on nGPT than on GPT?"),
    ),
    further=tuple(
        difference(feature, feature, "Muon", "Does a feature gain less on nGPT than on GPT?") for feature in TRIED
    ),
    aux_lrs=(0.005, 0.01, 0.02),
    fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
    comparison_seeds=8,
)
