"""Hyper-parameter search by Optuna: the space, the trials, and their report."""
