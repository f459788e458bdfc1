"""From utterances to the examples of a fold, with proofs of what the sides of a split do not share."""
