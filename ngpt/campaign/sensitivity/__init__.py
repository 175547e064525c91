"""Studies of sensitivity: what the loss gains or loses when a setting leaves its default, method by method."""
