"""Frozen encoders: what turns the audio or the transcript of an input into a sequence of feature vectors."""
