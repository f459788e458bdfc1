"""Adapters and baselines to and from the Hugging Face Hub, their model card, and merging."""
