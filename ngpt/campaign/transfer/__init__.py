"""Studies of rates across widths: the angle per step at which each method trains best, and how it depends on width."""
