"""Optimizers on the hypersphere: gated nGPT models, Muon and its relatives, and campaigns that can be believed."""
