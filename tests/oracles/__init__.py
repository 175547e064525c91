"""Slow float64 references, written from the formulas alone."""
