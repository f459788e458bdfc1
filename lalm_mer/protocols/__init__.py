"""Protocols: folds of a corpus, with proofs of what their splits do not share."""
