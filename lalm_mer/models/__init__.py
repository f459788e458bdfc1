"""Audio-language models: families, adapters, and the two-step forward of all families."""
