"""Integration gates: what an optimizer must do before it is built in, each PASS or FAIL with the figure measured."""
