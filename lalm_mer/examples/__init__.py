"""What a recognizer is given of an utterance, and the training examples that it learns from."""
