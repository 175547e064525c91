"""What README says of the best angle per step against width, from the data of `lr_transfer`."""

from pathlib import Path

from experiments.lr_transfer import STUDY
from ngpt.campaign.report.index import final_data
from ngpt.campaign.report.words import signed
from ngpt.campaign.transfer.analysis import State, find

EQUAL_ANGLES = STUDY.rules[0]


def widths_sentence(reports: Path) -> str:
    """Return in a sentence how the best angle changes with width, and what keeping it costs; empty without final data.

    Links are relative to README.
    """
    campaign = STUDY.at(STUDY.preset)
    data = final_data(campaign, reports)
    if data is None:
        return ""
    found = find(STUDY, data)
    exponents = [one.exponents["angle"] for one in found]
    known = [exponent for exponent in exponents if exponent is not None]
    tested = [rule for one in found for rule in one.tested if rule.rule == EQUAL_ANGLES]
    states: set[State] = {one.state for one in tested}
    excluded = states == {"ruled out"} and len(known) == len(found)
    if states == {"holds"}:
        headline = f"The best angle per step does not depend on width for any of the {len(found)} methods"
    elif excluded and all(exponent.high < 0 for exponent in known):
        headline = f"The best angle per step falls with width for all {len(found)} methods"
    elif excluded and all(exponent.low > 0 for exponent in known):
        headline = f"The best angle per step rises with width for all {len(found)} methods"
    else:
        headline = "Whether the best angle per step depends on width is open, or differs between methods"
    values = sorted(exponent.value for exponent in known)
    costs = [cost.value for one in tested for cost in one.costs.values() if cost is not None]
    parts = [f"from {STUDY.widths[0]} to {STUDY.widths[-1]} wide, exponents are "
             f"{signed(values[0], 2)} to {signed(values[-1], 2)}"] * bool(values)  # fmt: skip
    parts += [f"keeping the angle of width {STUDY.base} costs at most {max(costs):.3f}"] * bool(costs)
    text = "; ".join(parts)
    where = f"{data['comparison_seeds']} seeds; {data['training']['steps']:,} steps at each width"
    says = f" {text[0].upper()}{text[1:]}" if text else ""
    return f"**{headline}.**{says} ({where}; [report](reports/{campaign.report_name}))"
