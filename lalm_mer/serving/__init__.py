"""Prediction for recordings that belong to no corpus."""
