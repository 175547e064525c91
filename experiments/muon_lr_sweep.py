"""C1: whether Muon beats Adam on gated nGPT, where its best learning rate is, and how wide the basin."""

from ngpt.campaign.definition import Campaign, Method, Reference
from ngpt.campaign.verdict import Rule

CAMPAIGN = Campaign(
    name="muon_lr_sweep",
    title="Muon against Adam on gated nGPT, and Muon's learning rate",
    question="Does Muon beat a tuned Adam on gated nGPT?",
    claim=(
        "The hidden matrices W are moved by $W \\leftarrow W - \\eta\\,\\mathrm{polar}((1-\\mu)G + \\mu M)$ (Muon, "
        "$\\mu = 0.95$, Nesterov, five Newton-Schulz steps) or by Adam ($\\beta = 0.9, 0.95$); both are followed by "
        "lazy projection to the sphere every 7 steps. Everything else (embedding, head, gates, scalars) is moved by "
        "the same AdamW at the same rate in every arm, so that the sweep is one of the hidden matrices' rate alone. "
        "Predicted: Muon ends lower, because on a sphere the length of a gradient means nothing and Muon spends its "
        "step equally on all directions of a matrix. Muon's grid is the earlier attempt's; Adam's has the same size. "
        "Pilot runs on seeds 0, 1, 10 and 11 showed where Adam's optimum lies, and that 0.005 is the best of 0.005, "
        "0.01 and 0.02 for everything else, under Muon as under Adam."
    ),
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.001, 0.003, 0.01, 0.023, 0.05, 0.1)),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05)),
    ),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
    references=(
        Reference(
            data="fineweb10b",
            presets=("155m", "155m-literal"),
            text="6.775 (Adam, lr 0.0005) and 6.425 (Muon, lr 0.003), one seed each, dnhkng/nGPT-muon at 5a9ab2e",
        ),
    ),
)
