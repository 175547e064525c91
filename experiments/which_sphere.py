"""Constraints on the hidden matrices under Muon: unit vectors, a Frobenius norm, a spectral norm, or none."""

from typing import Any

from ngpt.campaign.definition import Campaign, Contrast, Method, Rule, noise_of, on_other_batches

RATES = (0.0075, 0.015, 0.03, 0.06, 0.12)
"""Hidden rates, and radians a step where angles are equal"""

HALF = tuple(rate / 2 for rate in RATES)
"""Rates of MuonSphere, whose step is lr times a norm of about 2"""

CONSTRAINTS = {"unit vectors": "vectors", "Frobenius": "frobenius", "spectral": "spectral", "none": "none"}
GAIN = Rule(metric="final_val_loss", predicted="not lower", smallest_effect=0.02, unit="nats per token", seeds=5)


def under(name: str, suffix: str = "", **fields: Any) -> Method:
    """Return Muon under a constraint that projection restores after every step."""
    own: dict[str, Any] = {"optimizer": "muon", "constraint": CONSTRAINTS[name], **fields}
    return Method(name=f"{name}{suffix}", fields=own, lrs=RATES, family=suffix.removeprefix(", "))


def published(name: str, rates: tuple[float, ...]) -> Method:
    """Return a rule that keeps a constraint of its own, with Muon's momentum."""
    fields = {"optimizer": f"ngpt.rules:{name}", "optimizer_args": "momentum=0.95", "constraint": "none"}
    return Method(name=name, fields=fields, lrs=rates)


VECTORS = under("unit vectors")

CAMPAIGN = Campaign(
    name="which_sphere",
    title="Unit vectors against other constraints for Muon on gated nGPT",
    question="Does Muon end lower under a constraint other than unit vectors?",
    claim=r"""
        nGPT keeps every vector of a hidden matrix at length 1. Here projection fixes something else, after every step:
        the Frobenius norm of the whole matrix, its largest singular value, or nothing. All runs start from the same
        unit vectors; the fixed norms are those of random unit vectors of the same shape. Embedding and head keep unit
        vectors in all runs, and AdamW moves everything but the hidden matrices.

        *MuonH* (arXiv 2606.16899) and *MuonSphere* (arXiv 2601.08393) are rules published for the Frobenius and the
        spectral sphere, with steps relative to its radius; here with Muon's momentum. The radius of *MuonSphere* is its
        source's, $2\sqrt{m/n}$ for an m x n matrix, which is not that of random unit vectors: it more than halves the
        MLP's output matrix at the first step. It also has another polynomial, Polar Express.

        At *equal angle*, each matrix is moved so that its vectors turn by the rate on average, whatever their lengths
        (`--match-step angle`). Without it, a norm that grows makes steps smaller by itself, so that a constraint also
        changes the schedule.

        *Other batches* is the baseline again on the same data in another order: the size of noise.

        Prediction: under no other constraint does the loss end lower by 0.02 nats per token. Directions are what the
        model learns, and blocks normalize their outputs; the lengths that the other constraints leave free can only act
        within a block. At equal angle the differences should be smaller still. No pilot run was made; the grids are
        around Muon's best rate at `tiny`.
    """,
    methods=(
        *(under(name) for name in CONSTRAINTS),
        published("MuonH", RATES),
        published("MuonSphere", HALF),
        *(under(name, ", equal angle", match_step="angle") for name in CONSTRAINTS),
        on_other_batches(VECTORS),
    ),
    baselines=("unit vectors", "unit vectors, equal angle", on_other_batches(VECTORS).name),
    rule=GAIN,
    further=(
        Contrast(
            name="unit vectors, equal angle against unit vectors",
            weights={"unit vectors, equal angle": 1.0, "unit vectors": -1.0},
            question="Does Muon gain from steps that turn the vectors of all matrices by the same mean angle?",
            rule=GAIN,
        ),
        noise_of(VECTORS, GAIN),
    ),
    fields={"schedule": "linear", "aux_lr": 0.005, "aux_lr_ratio": None, "lazy_proj_freq": 1},
    at_preset={"tiny": {"steps": 400}},
    reading=r"""
        Unit vectors are the best of these constraints. No other ends lower: a fixed
        norm of the whole matrix costs little, the Frobenius and the spectral one about the same, and no constraint at
        all costs most. Equal angles do not close the gap, so it is not that the other constraints only change the size
        of the steps. Without a constraint the best rate is at the end of its grid where steps are not matched; where
        they are, runs diverge at the larger rates.

        The prediction, that no other constraint gains, is confirmed where the answer is known; that the differences are
        smaller at equal angle did not come true. *Other batches* differ by about as much as some of these constraints
        do, but unpaired: the comparisons here are between runs on the same batches.
    """,
    does_not_show=r"""
        That unit vectors are best at another size, on another text or after longer training, or with an auxiliary rate
        tuned for each constraint.
    """,
    follows=r"""
        Unit vectors stay the default. The Frobenius and the spectral norm are close enough to be tried again where
        they are cheaper or at another size.
    """,
)
