"""Tables of predictions, their metrics, intervals and paired tests, comparisons of runs and reports; without torch."""
