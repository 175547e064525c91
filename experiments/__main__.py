"""`python -m experiments`: rewrite `reports/README.md` and the generated sections of `README.md` and `docs/`."""

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


def scaling_with_sections(text: str) -> str:
    """`docs/scaling.md` with its tables made anew, from formulas and from the measurements in `benchmarks/results`."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.scaling import exchange_table, memory_table, simulation_tables
    from ngpt.campaign.index import with_section

    sections = {"exchange": exchange_table(), "memory": memory_table(), "simulation": simulation_tables()}
    for name, content in sections.items():
        text = with_section(text, name, f"\n{content}\n")
    return text


def main() -> None:
    """Write the three files."""
    from experiments import INDEX
    from ngpt.campaign.index import write_index
    from ngpt.files import write_text

    write_index(INDEX, ROOT / "reports")
    path = ROOT / "README.md"
    write_text(path, readme_with_sections(path.read_text(encoding="utf-8")))
    path = ROOT / "docs" / "scaling.md"
    write_text(path, scaling_with_sections(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
