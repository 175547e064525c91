"""Muon against Adam on gated nGPT: which ends lower, at which learning rate, and how wide each basin is."""

from ngpt.campaign.definition import Campaign, Method, Rule

CAMPAIGN = Campaign(
    name="muon_lr_sweep",
    title="Muon against Adam on gated nGPT, and Muon's learning rate",
    question="Does Muon beat a tuned Adam on gated nGPT?",
    claim=r"""
        Hidden matrices W are updated by Muon, $W \leftarrow W - \eta\,\mathrm{polar}((1-\mu)G + \mu M)$ ($\mu = 0.95$,
        Nesterov, five Newton-Schulz iterations), or by Adam ($\beta = 0.9, 0.95$). Either way, lazy projection brings
        them back to the sphere every 7 steps. Everything else (embedding, head, gates, scalars) is updated by the same
        AdamW at the same rate in every arm, so the sweep varies nothing but the rate of the hidden matrices.

        Prediction: Muon ends lower, because on a sphere the length of a gradient carries no meaning, and Muon spreads
        its step equally over all directions of a matrix. Muon's grid is the one used in the earlier public attempt
        (dnhkng/nGPT-muon); Adam's has the same size. Pilot runs on seeds 0, 1, 10 and 11 located Adam's optimum and
        showed that 0.005 is the best of 0.005, 0.01 and 0.02 for everything else, under Muon as well as under Adam.
    """,
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.001, 0.003, 0.01, 0.023, 0.05, 0.1)),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05)),
    ),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
    published=dict.fromkeys(
        [("fineweb10b", "155m"), ("fineweb10b", "155m-literal")],
        "6.775 (Adam, lr 0.0005) and 6.425 (Muon, lr 0.003), one seed each, dnhkng/nGPT-muon at 5a9ab2e",
    ),
)
