"""Mistral's tokenizer only encodes complete conversations, and takes audio as an encoded file."""

import base64
import io
import itertools

import soundfile
import torch

from lalm_mer.prompting.conversation import Part

PADS_SHORT_AUDIO = True  # with silence, so that none is too short
FILLS_WINDOWS = True  # every utterance fills as many placeholders as a full window


def chunk(family, waveform):
    file = io.BytesIO()
    soundfile.write(file, waveform.samples, family.sampling_rate, format="WAV", subtype="FLOAT")
    return {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}


def own_audio(family, waveforms):
    window = {"pad_to_multiple_of": family.processor.feature_extractor.n_samples}
    window["max_source_positions"] = family.processor.feature_extractor.nb_max_frames
    conversations = [[{"role": "user", "content": [chunk(family, waveform)]}] for waveform in waveforms]
    made = [
        family.processor.apply_chat_template(turns, processor_kwargs={"audio_kwargs": window})
        for turns in conversations
    ]
    return {name: torch.cat([each[name] for each in made]) for name in ("input_ids", "input_features")}


def own_prompt(family, conversation, waveforms):
    """Its validator refuses a system turn with audio: the family puts it into the first user turn.

    Adjacent words are one chunk: of two it would make paragraphs.
    """
    sounds = iter(waveforms)
    turns = [[message.role, list(message.parts)] for message in conversation.messages]
    if waveforms and turns[0][0] == "system":
        system = turns.pop(0)
        turns[0][1] = [*system[1], Part("words", "\n\n"), *turns[0][1]]
    messages = []
    for role, parts in turns:
        chunks = []
        for kind, group in itertools.groupby(parts, lambda part: part.kind):
            if kind == "audio":
                chunks += [chunk(family, next(sounds)) for _ in group]
            else:
                chunks.append({"type": "text", "text": "".join(part.words for part in group)})
        messages.append({"role": role, "content": chunks})
    return family.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
