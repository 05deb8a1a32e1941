"""Counts of a recording, losslessly compressed as one FLAC stream (by `soundfile`)."""

import io

import numpy as np

# FLAC wants a whole number of Hz; the recording's own rate stands in the shard's index
_NOMINAL_RATE = 8000


def encode_flac(counts: np.ndarray) -> bytes:
    """A FLAC stream of counts, int16, leads x samples.

    The leads follow each other as one channel: FLAC has at most eight, and beyond two it treats each by itself, so
    that twelve channels in two streams would not be smaller.
    """
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, counts.ravel(), _NOMINAL_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def decode_flac(stream: np.ndarray) -> np.ndarray:
    """The counts, int16 and flat, of a FLAC stream in an array of uint8.

    Raises:
        RuntimeError: damaged (soundfile's own error is one).
    """
    import soundfile

    counts, _ = soundfile.read(io.BytesIO(stream.data), dtype="int16")
    return counts
