"""`python -m experiments`: rewrite `reports/README.md` and the generated sections of `README.md` from their data."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def readme_with_sections(readme: str, reports: Path = ROOT / "reports") -> str:
    """README with every generated section made anew, the results from the data in `reports`."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.tables import readme_tables
    from experiments import INDEX
    from ngpt.campaign.index import results_table, with_section

    readme = with_section(readme, "results", results_table(INDEX, reports, "reports/"))
    return with_section(readme, "speed", readme_tables())


def main() -> None:
    """Write both files."""
    from experiments import INDEX
    from ngpt.campaign.index import write_index
    from ngpt.files import write_text

    write_index(INDEX, ROOT / "reports")
    path = ROOT / "README.md"
    write_text(path, readme_with_sections(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
