"""Integration gates: what an optimizer must achieve before it is adopted, each PASS or FAIL with its measurement."""
