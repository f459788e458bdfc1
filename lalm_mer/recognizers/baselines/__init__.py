"""Baselines of named parts: encoders, sequence networks, a fusion and a head; by default after Pepino et al. (2020)."""
