"""Sections of zero_shot.py for a model on a server."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core import names
from lalm_mer.core.settings import setting
from lalm_mer.models.families import model_names

__all__ = ["ParitySettings", "RemoteSettings"]


@dataclass(frozen=True)
class RemoteSettings:
    """The server of family remote: what is sent, and how often."""

    label_scores: str = setting(
        names.PROMPT_LOGPROBS,
        choices=names.SERVED_SCORES,
        help="prompt_logprobs: exact, all tokens of every answer, one request each (vLLM); first_token: one request, "
        "if the labels differ in their first token; servers with neither need answering.mode=generation",
    )
    api_key_env: str | None = setting(
        None, may_change=True, help="name of the environment variable that has the key; null sends none"
    )
    audio_part: str = setting(
        "input_audio", choices=("input_audio", "audio_url"), help="kind of message part for audio; SGLang: audio_url"
    )
    sampling_rate: int = setting(16_000, at_least=8_000, at_most=48_000, help="of the audio that is sent, in Hz")
    longest_audio_s: float = setting(30.0, above=0, help="longer utterances are not sent and count as errors")
    concurrency: int = setting(8, at_least=1, at_most=1024, may_change=True, help="utterances that are sent at once")
    timeout_s: float = setting(120.0, above=0, may_change=True, help="longest time of one try of a request, in seconds")
    max_retries: int = setting(
        8, at_least=0, may_change=True, help="further tries of a request, after 0.5, 1, 2, 4, 8, 8 ... s or Retry-After"
    )
    prompt_token_price: float | None = setting(
        None, at_least=0, may_change=True, help="price of a million tokens of prompts, for the cost in run.json"
    )
    completion_token_price: float | None = setting(
        None, at_least=0, may_change=True, help="price of a million tokens of answers"
    )
    currency: str = setting("USD", may_change=True, help="of both prices")


@dataclass(frozen=True)
class ParitySettings:
    """Comparison of family remote with the exact scores of the same model on this machine, before most is sent."""

    family: str | None = setting(None, choices=model_names, help="architecture; null compares nothing")
    id: str = setting("", path="source", help="Hub id or local folder")
    revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    dtype: str = setting("float32", choices=names.DTYPES, help="data type of the weights")
    adapter: str | None = setting(None, path="source", help="Hub id or folder of the adapter that model.adapter serves")
    utterances: int = setting(200, at_least=1, help="largest number of test utterances that are compared")
    max_difference: float = setting(0.1, above=0, help="largest difference of a label log-probability")
    min_agreement: float = setting(1.0, at_least=0, at_most=1, help="smallest share of utterances of equal prediction")
