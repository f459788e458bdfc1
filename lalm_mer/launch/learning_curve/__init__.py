"""Learning curves: runs on numbers of training utterances, and their report."""
