"""Optimizers: pure steps, SimpleMuon made of them, schedules, lazy projection, and how a model's roles choose."""
