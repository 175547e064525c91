"""`python -m experiments`: rewrite `reports/README.md` and the results table of `README.md` from the reports' data."""

from pathlib import Path

from experiments import CAMPAIGNS
from ngpt.campaign.index import results_table, with_results, write_index
from ngpt.files import write_text

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    write_index(CAMPAIGNS, ROOT / "reports")
    table = results_table(CAMPAIGNS, ROOT / "reports", "reports/")
    readme = ROOT / "README.md"
    write_text(readme, with_results(readme.read_text(encoding="utf-8"), table))
