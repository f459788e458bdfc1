"""A run: engine, checks, training, scoring, and the run folder."""
