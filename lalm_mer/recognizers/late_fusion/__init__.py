"""Late fusion: one recognizer of the label log-probabilities of others."""
