"""Folds x seeds x modalities of several systems: the plan, its workers, and the summary."""
