"""How Gemma 4 differs from most families."""

SINGLE_PRECISION = True  # the attention of its tower scales queries in float32
