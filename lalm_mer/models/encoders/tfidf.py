"""TF-IDF vectors of transcripts, fitted on the train split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lalm_mer.core.errors import CorpusError, ModelError, PredictionError, one_line
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.core.strict_json import read_object
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.settings import TfidfSettings
from lalm_mer.models.encoders.transcript_tokens import transcript_of

__all__ = ["TFIDF_FILES", "TfidfText"]

_TOKENS = r"\w+|[^\w\s]"  # words and punctuation
TFIDF_FILES = _VOCABULARY, _IDF = "tfidf.json", "tfidf.safetensors"
"""Files that ``TfidfText.save`` writes"""


class TfidfText:
    """One vector per transcript, of n-grams of lower-cased words and punctuation; a ``FeatureExtractor``.

    Vectors have the norm 1, except for a transcript without any known n-gram.

    Args:
        settings: its shape
        vocabulary: n-grams, in the order of the features
        idf: inverse document frequency of each

    Example:
        >>> encoder = TfidfText.fit(["it is fine .", "it was fine !"], TfidfSettings(longest_ngram=1))
        >>> encoder.vocabulary
        ('!', '.', 'fine', 'is', 'it', 'was')
        >>> encoder.extract(Input("u1", "Fine!", None)).round(2)
        array([[0.81, 0.  , 0.58, 0.  , 0.  , 0.  ]], dtype=float32)
    """

    layers: int = 1
    """L, number of layers whose features are side by side in a frame."""
    stored: bool = False
    """Whether its features are worth storing."""

    def __init__(self, settings: TfidfSettings, vocabulary: Iterable[str], idf: Iterable[float]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._settings = settings
        self._vectorizer = _vectorizer(settings, vocabulary={name: row for row, name in enumerate(self.vocabulary)})
        self._vectorizer.idf_ = np.asarray(idf, dtype=np.float64)
        self.size = len(self.vocabulary)

    @classmethod
    def fit(cls, transcripts: Iterable[str], settings: TfidfSettings) -> TfidfText:
        """Fit it on transcripts.

        Raises:
            CorpusError: if they contain no n-gram that is frequent enough
        """
        vectorizer = _vectorizer(settings, min_df=settings.least_count, max_features=settings.vocabulary_size)
        try:
            vectorizer.fit(list(transcripts))
        except ValueError as error:
            raise CorpusError(f"no TF-IDF of the train transcripts: {one_line(error)}") from error
        return cls(settings, vectorizer.get_feature_names_out(), vectorizer.idf_)

    def settings(self) -> dict[str, Any]:
        """Parameters, and hashes of what was fitted."""
        fitted = hash_json([list(self.vocabulary), self._vectorizer.idf_.tolist()])
        return {"name": "tfidf", **asdict(self._settings), "weights": fitted}

    def source_hash(self, given: Input) -> str | None:
        """None: its features are not stored."""
        return None

    def extract(self, given: Input) -> Frames:
        """The vector of an input, (1, D).

        Raises:
            CorpusError: naming the utterance, if it has no transcript
        """
        vectors: Frames = self._vectorizer.transform([transcript_of(given)]).toarray()
        return vectors.astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write vocabulary and inverse document frequencies."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _VOCABULARY, {"vocabulary": list(self.vocabulary)})
        with atomic_path(folder / _IDF) as partial:
            save_file({"idf": self._vectorizer.idf_}, partial)

    @classmethod
    def load(cls, folder: Path, settings: TfidfSettings) -> TfidfText:
        """Read what ``save`` wrote.

        Raises:
            ModelError: if a file is missing or does not fit the other
        """
        try:
            vocabulary = read_object(folder / _VOCABULARY)["vocabulary"]
            return cls(settings, vocabulary, load_file(folder / _IDF)["idf"])
        except (PredictionError, SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{folder}: no TF-IDF of transcripts ({one_line(error)})") from error


def _vectorizer(settings: TfidfSettings, **options: Any) -> Any:  # noqa: ANN401 scikit-learn is untyped
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, since most runs do not use it

    ngrams = (1, settings.longest_ngram)
    return TfidfVectorizer(token_pattern=_TOKENS, ngram_range=ngrams, sublinear_tf=settings.sublinear, **options)
