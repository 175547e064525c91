"""Analysis, from collected data to verdicts: statistics, the rule applied, pace, and every number of a report."""
