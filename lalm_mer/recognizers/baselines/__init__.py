"""The fusion baseline after Pepino et al.: acoustic frames and word embeddings."""
