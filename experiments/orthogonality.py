"""Orthogonal updates against others, with the angle of a step as the rate, to see what makes Muon's update good."""

from typing import Any

from ngpt.campaign.definition import AtScale, Campaign, Contrast, Method, Rule, noise_of, on_other_batches

ANGLES = (0.0075, 0.015, 0.03, 0.06, 0.12)
"""Radians a step; about 0.03 is what Muon turns vectors by at its best rate at `tiny`"""

ANGLES_AT_RUNG_1 = (0.007, 0.014, 0.028, 0.056)
"""The same there, where Muon's best rates turn vectors by about 0.02 at first, and Adam's by about 0.03"""

QUESTION = "Are other updates worse than Muon's orthogonal one, each at its best angle per step?"

WORSE = Rule(metric="final_val_loss", predicted="higher", smallest_effect=0.02, unit="nats per token", seeds=5)


def at_equal_angle(name: str, optimizer: str, arguments: str = "", lrs: tuple[float, ...] = ANGLES) -> Method:
    """Return a method whose rate is the mean rotation of each matrix in a step, in radians."""
    fields: dict[str, Any] = {"optimizer": optimizer, "match_step": "angle"}
    return Method(name=name, fields=fields | ({"optimizer_args": arguments} if arguments else {}), lrs=lrs)


MUON = at_equal_angle("Muon", "muon")

CAMPAIGN = Campaign(
    name="orthogonality",
    title="Orthogonal updates and others by the angle of their steps on gated nGPT",
    question=QUESTION,
    claim=r"""
        Muon's update is the polar factor $UV'$ of its momentum $USV'$: all singular values are 1. Here other updates
        are computed from the same momentum ($\mu = 0.95$, with Muon's look-ahead), and each matrix is moved so that its
        vectors turn by the rate on average (`--match-step angle`). So methods differ in the direction of the step and
        in how it is spread over vectors, and all choose its size from the same angles. Projection follows every 7
        steps, and AdamW moves everything else.

        - *Kaon*: $URV'$ with R drawn anew in each step, uniform on (0, 1). Its singular vectors are Muon's and its
          spectrum is noise.
        - *RMNP*: the momentum with every vector divided by its length. *Nora*: the same for its tangent part, so that
          every vector turns by the same angle. No singular values are computed.
        - *Signum*: the sign of the momentum, entry by entry.
        - *Adam*: AdamW, with averages of its own instead of Muon's momentum; it divides each entry by its own scale.
        - *random signs*: $URV'$ with R of random signs: exactly orthogonal, but no descent direction. It checks that
          the comparison can detect a useless direction, at the middle of the others' grid: a smaller step is always
          better for it.

        *Other batches* is Muon again on the same data in another order: the size of noise.

        Prediction: each loss ends higher than Muon's by 0.02 nats per token or more. For GPT-2 with unconstrained
        weights, Kaon was published as equal to Muon (arXiv 2605.11181), and RMNP as competitive with it (arXiv
        2603.20527). If an even spectrum is what helps, Kaon must lose; if only the singular vectors count, Kaon ends
        near Muon and the others do not. Kaon, RMNP, Nora and Signum use Muon's momentum here rather than that of their
        papers, so that only one thing differs. No pilot run was made; the grid, the same for all, is around the angle
        at Muon's best rate.
    """,
    methods=(
        MUON,
        at_equal_angle("Kaon", "ngpt.rules:Kaon"),
        at_equal_angle("RMNP", "ngpt.rules:RMNP", "nesterov=True"),
        at_equal_angle("Nora", "ngpt.rules:Nora", "nesterov=True"),
        at_equal_angle("Signum", "ngpt.rules:Signum", "nesterov=True"),
        at_equal_angle("Adam", "adam"),
        at_equal_angle("random signs", "ngpt.rules:Kaon", "values=signs", lrs=(0.03,)),
        on_other_batches(MUON),
    ),
    baselines=("Muon", on_other_batches(MUON).name),
    rule=WORSE,
    further=(
        Contrast(
            name="RMNP against Kaon",
            weights={"RMNP": 1.0, "Kaon": -1.0},
            question="Is normalizing each vector worse than random singular values?",
            rule=WORSE,
        ),
        Contrast(
            name="RMNP against Nora",
            weights={"RMNP": 1.0, "Nora": -1.0},
            question="Without a polar factor, is it worse to let vectors turn by different angles?",
            rule=WORSE,
        ),
        noise_of(MUON, WORSE),
    ),
    fields={"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None, "adam_beta1": 0.9},
    at_preset={"tiny": {"steps": 400}},
    reading=r"""
        What counts are the singular vectors. Kaon has Muon's, with singular values drawn anew in each step, and stays
        close to it; a small cost is likely, and not settled with these seeds. Everything that computes no singular
        vectors, whether it normalizes vectors, entries, or entries by their history, ends far behind, and all of it
        about equally far. Adam's second moment gains nothing over the bare sign of the momentum here.

        So the prediction that each of them loses came true for all but Kaon, and the reason is not that Muon's update
        is orthogonal: *random signs* is, and learns next to nothing. Nora, whose vectors all turn by one angle, is not
        better than RMNP, whose vectors do not.
    """,
    does_not_show=r"""
        An answer at another size, on another text or after longer training. One auxiliary rate serves all methods
        here, and no rule is run with its paper's own momentum.
    """,
    follows=r"""
        The singular vectors are what an orthogonalizer has to get right; noise in the singular values costs little.
        Whether Kaon's small cost is real takes more seeds, and the campaign is worth repeating at `rung-1`.
    """,
    at_scale={
        "rung-1": AtScale(
            lrs={**dict.fromkeys(("Muon", "Kaon", "Adam"), ANGLES_AT_RUNG_1), on_other_batches(MUON).name: ()},
            aux_lrs=(0.0025, 0.005, 0.01, 0.02),
            fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None},
            comparison_seeds=8,
            predicted={QUESTION: "not lower"},
            claim=r"""
                Only Kaon and Adam are compared with Muon: one has Muon's singular vectors without their even spectrum,
                the other computes none. Each is tuned over four angles and then over the auxiliary rate, and runs see
                20 tokens per non-embedding parameter.

                Prediction: neither ends lower than Muon by 0.02. Adam ends higher by 0.02 or more, but by a fraction of
                its distance at `tiny`. Kaon ends within 0.02 of Muon.
            """,
            reading=r"""
                All three parts of the prediction came true. Kaon, with Muon's singular vectors and singular values
                drawn anew in each step, is level with Muon. Adam ends about as far behind as when its rate is not an
                angle. Its best angle is twice Muon's, but in tuning it ended higher at every angle tried, so the size
                of the steps does not explain its distance.
            """,
            does_not_show=r"""
                That an even spectrum is worth nothing: Kaon's singular values differ from step to step, and over a few
                steps their mean is even. A spectrum that stays uneven would be the test. Nor whether the same holds for
                updates that are not here (normalized vectors, signs), on another text or at a larger size. Adam differs
                from Muon in its averages too, not only in its directions.
            """,
            follows=r"""
                An orthogonalizer has to get the singular vectors right and may be noisy in the singular values. Next
                is a spectrum that is uneven in the same way in every step, such as that of fewer iterations in
                `muon_ablations`.
            """,
        ),
    },
)
