"""Muon against a tuned Adam in the same training time, with compiled steps."""

from ngpt.campaign.definition import Campaign, Contrast, Method, Rule

MUON_RATES = (0.01, 0.02, 0.04)
FEWER = "Muon, 3 Newton-Schulz steps"

CAMPAIGN = Campaign(
    name="equal_time",
    title="Muon against Adam in the same training time, with compiled steps",
    question="In the same training time, does Muon beat a tuned Adam?",
    claim=r"""
        At equal steps Muon beats a tuned Adam at `rung-1` (`muon_lr_sweep`), but each of its steps takes longer. In the
        same time on a CPU, Muon with NorMuon still led (`muon_ablations`). Steps were not compiled there. Compilation
        shortens the forward and the backward pass, which both methods share, and leaves the polar factor as it is. So a
        step of Muon now costs about 1.3 of Adam instead of 1.2.

        Every run gets 30 seconds of training, on the clock of its own process: about as many steps as in the other
        campaigns at `rung-1`, where runs see 20 tokens for each non-embedding parameter. The first step of a run does
        not count. Rates fall linearly to zero over the time. Each method is tuned over its hidden rate, then over the
        auxiliary rate, on grids around the best rates of `muon_lr_sweep` there. The third method is Muon with three
        Newton-Schulz iterations instead of five: less time for a less orthogonal update.

        Prediction: Muon does not end lower than Adam by 0.02. In `muon_ablations`, a fifth more steps made up for half
        of what Adam loses at equal steps; nearly a third more should make up for most of it. Three iterations instead
        of five make no difference that matters.
    """,
    preset="rung-1",
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=MUON_RATES),
        Method(name=FEWER, fields={"optimizer": "muon", "ns_steps": 3}, lrs=MUON_RATES),
        Method(name="Adam", fields={"optimizer": "adam"}, lrs=(0.005, 0.01, 0.02)),
    ),
    aux_lrs=(0.0025, 0.005, 0.01, 0.02),
    baselines=("Adam",),
    rule=Rule(metric="final_val_loss", predicted="not lower", smallest_effect=0.02, unit="nats per token", seeds=5),
    further=(
        Contrast(
            name=f"{FEWER}, against Muon", weights={FEWER: 1.0, "Muon": -1.0},
            question="Do fewer Newton-Schulz iterations end lower in the same time?",
            rule=Rule(metric="final_val_loss", predicted="level", smallest_effect=0.02, unit="nats per token", seeds=5),
        ),
    ),
    fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
    budget_seconds=30.0,
    comparison_seeds=8,
    reading=r"""
        Muon beats Adam in the same time, too, on all seeds but one. So the prediction was wrong, for two reasons. A
        step of Muon was cheaper than assumed. And the lead at equal steps in `muon_ablations`, of which Adam's
        additional steps seemed to make up for half, is measured there while Muon's rate has decayed further, which
        exaggerates it. Of the lead that `muon_lr_sweep` found in runs of equal length, about half is left here.

        With three Newton-Schulz iterations, more of Muon's steps fit into the time. It then ends lower than Adam on
        every seed, and slightly lower than with five iterations, by less than what matters, as in `muon_ablations` at
        `rung-1`. At the fitted optima no difference from five is shown.
    """,
    does_not_show=r"""
        What happens where the orthogonalizer takes another share of a step: on a GPU, on another processor, or at a
        larger width with more tokens a step. Compilation itself does not count as training; a single run on a machine
        that has compiled nothing yet does not repay it. At equal steps, see `muon_lr_sweep`.
    """,
    follows=r"""
        About half of Muon's lead at `rung-1` remains when time is equal instead of steps. At this size and on a CPU,
        two of the five iterations can be left out without a loss that matters.
    """,
)
