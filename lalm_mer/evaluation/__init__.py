"""What tables of predictions say: metrics, intervals, paired tests, comparisons, a report. Reaches no torch."""
