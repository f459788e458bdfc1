"""A separate program that synthesises speech with eSpeak NG: requests as JSON on stdin, framed samples on stdout.

eSpeak NG is GPL-3, so it runs in a separate process, and this file imports nothing of the library. eSpeak has an
internal noise state: repeating a call in one process gives other samples, but the same *sequence* of calls in a new
process is bit-identical. So requests are processed in order, and a caller gets the same samples by sending the same
list to a new process.

stdin: a JSON list of ``{"words", "voice", "rate", "pitch", "pitch_range"}`` (rate in words per minute, the other two
0 to 100). stdout: the sampling rate in Hz, then for each request the number of samples and the samples; all
little-endian, uint32 and int16.
"""

import ctypes
import json
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT, from speak_lib.h: espeak_Synth returns when it has finished
UTF8_WITH_PHONEMES = 0x101  # flags of espeak_Synth: UTF-8, and [[...]] contains phoneme names
PARAMETERS = {"rate": 1, "pitch": 3, "pitch_range": 4}  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def fail(message: str) -> NoReturn:
    """End with one line on stderr."""
    sys.stderr.write(f"{message}\n")
    raise SystemExit(1)


class Speaker:
    """An initialised eSpeak NG.

    Args:
        library: path of libespeak-ng
        data: path of its espeak-ng-data
    """

    def __init__(self, library: str, data: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.sampling_rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0))
        if self.sampling_rate <= 0:
            fail(f"eSpeak NG did not start with its data in {data}")
        self._variants = Path(data, "voices", "!v")
        self._voice = ""
        self._pieces: list[bytes] = []
        self._callback = CALLBACK(self._collect)  # a reference, since the library may call it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: int | None) -> int:  # noqa: ANN401 a ctypes pointer
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def _set_voice(self, voice: str) -> None:
        variant = voice.partition("+")[2]  # eSpeak ignores an unknown variant
        has_variant = not variant or (self._variants / variant).is_file()
        if not has_variant or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            fail(f"eSpeak NG has no voice {voice!r}")
        self._voice = voice

    def speak(self, request: dict[str, Any]) -> bytes:
        """Synthesise one request as int16 samples."""
        if request["voice"] != self._voice:  # setting a voice is slow
            self._set_voice(request["voice"])
        for name, number in PARAMETERS.items():
            self._library.espeak_SetParameter(number, request[name], 0)
        content = request["words"].encode()
        self._pieces.clear()
        status = self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, UTF8_WITH_PHONEMES, None, None)
        if status != 0:
            fail(f"eSpeak NG could not speak {request['words']!r} (status {status})")
        return b"".join(self._pieces)


def main() -> None:
    """Synthesise the requests of stdin in order."""
    try:
        import espeakng_loader
    except ModuleNotFoundError:
        fail("the package espeakng-loader is not installed")
    requests = json.load(sys.stdin)
    speaker = Speaker(str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path()))
    out = sys.stdout.buffer
    out.write(struct.pack("<I", speaker.sampling_rate))
    for request in requests:
        samples = speaker.speak(request)
        out.write(struct.pack("<I", len(samples) // 2) + samples)


if __name__ == "__main__":
    main()
