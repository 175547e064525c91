"""Execution, from a plan to collected data: flags, launchers, collection, and reproduction of published runs."""
