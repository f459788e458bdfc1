"""Examples with a hash and a duration each, as of an ``ExampleDataset``."""


class HashedSplit:
    """A split whose audio is identified by the utterance id."""

    def __init__(self, examples):
        self.examples = examples

    def __getitem__(self, index):
        return self.examples[index]

    def audio_hashes(self):
        return [f"hash of {example.input.utterance_id}" for example in self.examples]

    def durations_s(self):
        return [example.input.waveform.duration_s for example in self.examples]
