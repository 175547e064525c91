"""Whether Muon's lead over Adam on code comes from a longer context."""

from ngpt.campaign.definition import Campaign, Contrast, Method, Rule, noise_of, on_other_batches

RATES: dict[str, tuple[float, ...]] = {"Muon": (0.01, 0.02, 0.04), "Adam": (0.0035, 0.007, 0.014)}
SEQUENCES = {256: 16, 128: 32}
"""Tokens of a sequence, and the number of sequences in a step: 4,096 tokens in all"""

LEADS = "Does Muon end lower than a tuned Adam at both lengths of context?"
LEAD = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=5)
LEVEL = Rule(metric="final_val_loss", predicted="level", smallest_effect=0.02, unit="nats per token", seeds=5)


def method(optimizer: str, context: int) -> Method:
    """Return an optimizer with sequences of `context` tokens; a family of its own."""
    fields = {"optimizer": optimizer.lower(), "seq_len": context, "batch_size": SEQUENCES[context]}
    name = f"{optimizer}, {context}"
    return Method(name=name, fields=fields, lrs=RATES[optimizer], family=name)


MUON = method("Muon", 256)
AGAIN = on_other_batches(MUON)

CAMPAIGN = Campaign(
    name="context_length",
    title="Muon's lead over Adam on code, with sequences of 128 and of 256 tokens",
    question=LEADS,
    claim=r"""
        On Python's standard library Muon's lead over Adam was 0.07 at `rung-1` and 0.04 at `rung-2`. At `rung-3`, where
        `scaling_ladder` tunes nothing, it was 0.13 on the first three seeds. There Muon's loss falls abruptly in the
        middle of a run, at a step that depends on the seed, and Adam's does not; on English nothing falls. The text is
        read a second time only later. `rung-3` is also the first rung with sequences of 256 tokens instead of 128, and
        code rewards what copies from far back. This campaign was thought of after those runs and is about them: its
        seeds are new, but nothing else is.

        Muon and Adam are each tuned over three hidden rates with sequences of 256 tokens, and with twice as many of 128
        in a step, so that all see the same number of tokens. The auxiliary rate is that of the ladder. Losses at
        different lengths of context are not compared, only Muon's lead. *Other batches* is Muon again on the same data
        in another order. If a run's loss depends on whether and when it falls, differences between seeds are far from
        normal, and the intervals may be too narrow or too wide; the report has every seed. Steps are not compiled,
        since on a GPU every run would compile for itself.

        Prediction: Muon leads at both lengths, by at least 0.02 more at 256.
    """,
    preset="rung-3",
    methods=(*(method(optimizer, context) for context in SEQUENCES for optimizer in RATES), AGAIN),
    baselines=(*(f"{optimizer}, {context}" for context in SEQUENCES for optimizer in RATES), AGAIN.name),
    rule=LEAD,
    leading=(
        *(
            Contrast(
                name=f"Muon against Adam, {context} tokens",
                weights={f"Muon, {context}": 1.0, f"Adam, {context}": -1.0}, question=LEADS, rule=LEAD,
            )
            for context in SEQUENCES
        ),
        Contrast(
            name="Muon minus Adam with 256 tokens, less the same with 128",
            weights={"Muon, 256": 1.0, "Adam, 256": -1.0, "Muon, 128": -1.0, "Adam, 128": 1.0},
            question="Is Muon's lead larger with the longer context?",
            rule=LEAD,
        ),
    ),
    further=(noise_of(MUON, LEVEL),),
    fields={"schedule": "linear", "aux_lr": 0.01, "aux_lr_ratio": None, "compile": False},
    comparison_seeds=6,
)  # fmt: skip
