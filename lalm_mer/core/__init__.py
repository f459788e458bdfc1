"""What all packages share: errors, labels, utterances, settings, the run record, provenance, audio."""
