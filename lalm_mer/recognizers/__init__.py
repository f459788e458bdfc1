"""Recognizers turn inputs into label log-probabilities: their training and their scoring."""
