"""Muon against Adam on gated nGPT: which ends lower, at which learning rate, and how wide each basin is."""

from ngpt.campaign.definition import AtScale, Campaign, Method, Reading, Rule

CAMPAIGN = Campaign(
    name="muon_lr_sweep",
    title="Muon against Adam on gated nGPT, and Muon's learning rate",
    question="Does Muon beat a tuned Adam on gated nGPT?",
    claim=r"""
        Hidden matrices W are updated by Muon, $W \leftarrow W - \eta\,\mathrm{polar}((1-\mu)G + \mu M)$ ($\mu = 0.95$,
        Nesterov, five Newton-Schulz iterations), or by Adam ($\beta = 0.9, 0.95$; 0.7, 0.95 on the ladder). Either way,
        lazy projection brings them back to the sphere every 7 steps. Everything else (embedding, head, gates, scalars)
        is updated by AdamW without weight decay, at a rate of its own, the auxiliary rate. Beside Muon its betas are
        0.9 and 0.95, and beside Adam those of Adam. All rates fall linearly to zero over the run, so that losses are
        compared at the end of a decay.

        Each method is tuned over its hidden rate, then over the auxiliary rate, with the same number of runs. Muon's
        hidden grid is the one used in the earlier public attempt (dnhkng/nGPT-muon); Adam's has the same size. The
        auxiliary grid is the same for both, around 0.005: that was the best of 0.005, 0.01 and 0.02 in pilot runs
        (seeds 0, 1, 10 and 11) at a constant rate, which also located Adam's hidden optimum. In pilot runs with a
        decaying rate (seeds 100 and 101) the best auxiliary rate was 0.01 under Muon and 0.005 under Adam.

        Prediction: Muon ends lower, because on a sphere the length of a gradient carries no meaning, and Muon spreads
        its step equally over all directions of a matrix. An earlier campaign of this name gave the same answer at half
        the steps, with rates that did not decay, an auxiliary rate that was not tuned, and a logit scale that started
        at 1 and limited every run. In pilot runs at a constant rate, 800 steps closed the gap; with a rate that decayed
        over 1,200 steps it was there again, and the pilot runs of this campaign had it too.
    """,
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.001, 0.003, 0.01, 0.023, 0.05, 0.1)),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05)),
    ),
    aux_lrs=(0.0025, 0.005, 0.01, 0.02),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5),
    fields={"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None},
    at_preset={"tiny": {"steps": 400}},
    at_scale={
        "rung-1": AtScale(
            claim=r"""
                Runs see 20 tokens per non-embedding parameter instead of 1.4. The lead is predicted to be several times
                smaller than at `tiny`, and still larger than what matters.
            """,
            reading=r"""
                Muon's lead is not confined to the very beginning of training: with 14 times as many tokens for each
                parameter, Muon still leads on every seed. On average the lead is 0.4 times as large as at `tiny`. That
                is smaller, as predicted, but not several times smaller: we predicted too small a lead. Adam's beta1,
                the length of context and the depth changed as well, so this is not the effect of length alone.
            """,
            does_not_show=r"""
                A lead at a larger size, or in training time: a Muon step costs more than an Adam step, and by how much
                depends on the width and the processor.
            """,
            follows=r"""
                The same comparison at `rung-2` is in `scaling_ladder`: the lead is smaller there.
            """,
        ),
    },
    on_texts={
        ("rung-1", "English"): Reading(
            reading=r"""
                Muon leads on English as on Python's standard library, on every seed and by about as much, with all
                rates tuned anew. So the lead is not specific to code.
            """,
            does_not_show=r"""
                A lead at a larger size, with tokens other than bytes, or in training time: see the speed in the table.
            """,
            follows=r"""
                The main contrasts of the other campaigns on this text are in `scaling_ladder`.
            """,
        ),
    },
    published=dict.fromkeys(
        [("fineweb10b", "155m"), ("fineweb10b", "155m-literal")],
        "6.775 (Adam, lr 0.0005) and 6.425 (Muon, lr 0.003), one seed each, dnhkng/nGPT-muon at 5a9ab2e",
    ),
    does_not_show=r"""
        A lead at another size, on another text or after longer training: in pilot runs at a constant rate, Adam caught
        up in a run twice as long. Training time depends on the machine: a Muon step costs more than an Adam step, and
        by how much depends on the processor and the width.
    """,
    follows=r"""
        A tuned Adam stays the baseline to beat in every campaign. The same comparison at `rung-1`, where runs see 20
        tokens per non-embedding parameter, is a report of its own.
    """,
)
