"""Campaigns: arms times seeds and a rule fixed in advance, from plan to verdict to report."""
