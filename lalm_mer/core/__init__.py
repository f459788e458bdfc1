"""The vocabulary every wing shares: errors, labels, utterances, config, provenance, audio."""
