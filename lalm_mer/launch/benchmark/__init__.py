"""Benchmark: this project's path and the plain one on the same model and utterances."""
