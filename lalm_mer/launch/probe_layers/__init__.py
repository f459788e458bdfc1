"""Layer probes: a linear model of each layer of a pretrained encoder, and their report."""
