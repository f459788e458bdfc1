"""Audio-language models as recognizers: batches of prompts and answers, likelihoods, generated answers."""
