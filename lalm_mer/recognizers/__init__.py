"""Recognizers turn examples into label log-probabilities: how they learn and how they are scored."""
