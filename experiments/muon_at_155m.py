"""Muon against Adam at 155 million parameters, at rates fixed beforehand."""

from ngpt.campaign.definition import Campaign, Method, Reading, Rule

ADAM_LRS = (0.001, 0.002, 0.004, 0.008)

CAMPAIGN = Campaign(
    name="muon_at_155m",
    title="Muon against Adam on a gated nGPT of 155 million parameters",
    question="Does Adam end higher than Muon at each of four rates?",
    claim=r"""
        The size, batch and number of steps are those of an earlier public attempt (dnhkng/nGPT-muon): 11 layers of
        width 768, 400 steps of 4,096 tokens. Runs of this length see the first moments of training: a hundredth of a
        token per parameter.

        The GPU is at hand for minutes, not long enough to tune each method. So the comparison is made hard for Muon
        instead. Muon has one rate, 0.03, fixed before any of its runs at this size had ended. Adam has four rates, and
        Muon is compared with each of them on the same seeds. If Muon ends below the best of the four, it does so in
        spite of Adam's choice. The rates are those of `tiny` at as many steps, carried over by the angle that they turn
        vectors by: about 0.05 radians for Muon, a little less here for the larger size; for Adam 0.02 at width 64 is as
        much as 0.006 at width 768. One pilot run had ended: Adam at 0.001 (seed 100).

        Everything else is moved by AdamW at the preset's auxiliary rate, which is not tuned. Steps are not compiled, as
        compilation takes longer than a run.

        Prediction: Adam ends higher at every rate, by more than at `tiny`.
    """,
    preset="155m",
    methods=(
        Method(name="Muon", fields={"optimizer": "muon"}, lrs=(0.03,)),
        *(Method(name=f"Adam, {lr:g}", fields={"optimizer": "adam"}, lrs=(lr,)) for lr in ADAM_LRS),
    ),
    baselines=("Muon",),
    rule=Rule(metric="final_val_loss", predicted="higher", smallest_effect=0.02, unit="nats per token", seeds=5),
    fields={"schedule": "linear", "compile": False},
    on_texts={
        ("155m", "English"): Reading(
            reading=r"""
                Muon ends lower than Adam at every rate and on every seed. The other half of the prediction, a larger
                lead than at `tiny`, is not borne out. Against the best of the four rates the lead per byte is a
                fraction of that at `tiny`, which was on another text and against a tuned Adam; a token of GPT-2 has
                about four bytes.
            """,
            does_not_show=r"""
                What happens after the very beginning of training: a run sees one token for every hundred parameters.
                What either optimizer does at its best rate: none is tuned, nor is the auxiliary rate, which moves half
                of all parameters. The rates were carried over by the angle that they turn vectors by, and the angles
                came out smaller than planned; the angles at Adam's four rates lie on both sides of Muon's. Adam's beta1
                is 0.9. On the ladder of presets 0.7 is better for it, and how much of the lead that is worth at this
                size is unknown. With the highest of these rates, Adam's vectors are far from the sphere before each
                projection.
            """,
            follows=r"""
                Longer runs, with rates tuned for each optimizer. Until then the ladder of presets is the better
                evidence.
            """,
        ),
    },
)
