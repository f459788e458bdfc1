"""Audio-language models: families, adapters, batches, and the two-step forward that all families share."""
