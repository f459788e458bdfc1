"""Baselines that are trained from small inputs: acoustic frames and word embeddings, fused after Pepino et al."""
