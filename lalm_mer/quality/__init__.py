"""Quality of a prepared corpus: measures of its utterances, flags on suspicious ones, and a report."""
