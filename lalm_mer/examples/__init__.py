"""Inputs of recognizers and training examples: datasets, transcripts, context, augmentation, balancing, features."""
