"""Read MFER with `ecgdatakit`, after a check of the number, depth and channels of its definitions."""

import itertools
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq_signals_ext.readers.clinical import Decoder
from fairseq_signals_ext.readers.facts import lead_position
from fairseq_signals_ext.readers.formats import Beginning
from fairseq_signals_ext.readers.parts import Part, only_beats

_MOST_DEFINITIONS = 100_000
_MOST_CHANNELS = 256
_MOST_PIECES = 100_000  # channels of all frames of samples together
_DEEPEST = 4  # nested definitions
_MOST_WITHOUT_LENGTH = 20  # nested ones are read again for each level
_LONGEST_NUMBER = 4  # bytes, of a channel
_DOMINANT_BEAT = 9  # type of a waveform that is an averaged beat
_BYTE_ORDER, _CHANNELS, _WAVE, _OF_CHANNEL, _GROUP, _END = 0x01, 0x05, 0x1E, 0x3F, 0x67, 0x80


def _is_mfer(beginning: Beginning) -> bool:
    return beginning.head[:1] == b"\x40" and beginning.head[2:6] == b"MFR "


def _check_mfer(path: Path) -> None:
    """Check the number and depth of definitions and the number of channels.

    Raises:
        ValueError: one of them is above its limit.
    """
    content = path.read_bytes()
    _DefinitionChecker(content).check(0, len(content), 0)


class _DefinitionChecker:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._definitions = self._pieces = self._without_length = 0
        self._channels, self._order = 1, "big"

    def check(self, at: int, end: int, depth: int) -> None:
        """Check the definitions between two positions; a damaged one is an error."""
        if depth > _DEEPEST:
            raise ValueError(f"it has more than {_DEEPEST} definitions within one another")
        while at < end:
            tag = self._content[at]
            at += 1
            if tag == 0:
                continue
            if tag == _END:
                return
            if tag == _OF_CHANNEL:
                at = self._after_channel(at)
            length, at = self._length(at)
            self._count(tag, self._content[at : at + min(length or 0, 8)])
            if length is None:  # its content continues here, up to zeros
                continue
            if tag in (_OF_CHANNEL, _GROUP):
                self.check(at, min(at + length, end), depth + 1)
            at += length

    def _count(self, tag: int, value: bytes) -> None:
        self._definitions += 1
        if tag == _BYTE_ORDER:
            self._order = "little" if value[:1] == b"\1" else "big"
        elif tag == _CHANNELS:
            self._channels = int.from_bytes(value, "little" if self._order == "little" else "big") if value else 1
        elif tag == _WAVE:
            self._pieces += self._channels
        for what, number, most in (
            ("definitions", self._definitions, _MOST_DEFINITIONS),
            ("channels", self._channels, _MOST_CHANNELS),
            ("channels in its frames", self._pieces, _MOST_PIECES),
            ("definitions without a length", self._without_length, _MOST_WITHOUT_LENGTH),
        ):
            if number > most:
                raise ValueError(f"it has more than {most:,} {what}")

    def _after_channel(self, at: int) -> int:
        """Return the position after the number of a channel."""
        for place in range(at, at + _LONGEST_NUMBER):
            if place >= len(self._content) or not self._content[place] & 0x80:
                return place + 1
        raise ValueError("the number of a channel is too long")

    def _length(self, at: int) -> Tuple[Optional[int], int]:
        """Return the length of a definition (None if it has none), and where its value begins."""
        first = self._content[at] if at < len(self._content) else 0
        count = first & 0x7F
        if first < 0x80:
            return first, at + 1
        if not count:
            self._without_length += 1
            return None, at + 1
        return int.from_bytes(self._content[at + 1 : at + 1 + count], "big"), at + 1 + count


def _mfer_parts(parser: Any, path: Path) -> Any:
    """Return a parser of MFER that collects a part per run of frames with equal channels, sample rates and scales."""
    found: List[Part] = []  # as ecgdatakit parses with a copy of its parser

    class Parts(parser):
        parts = found
        _frames: List[Dict[str, Any]]

        def _build_leads(self) -> None:
            rhythm = [frame for frame in self._frames if frame["wfm"] != _DOMINANT_BEAT]
            runs = [list(run) for _, run in itertools.groupby(rhythm, self._frame_key)]
            if self._frames and not runs:
                raise only_beats(path)
            for frames in runs:
                leads, rates = self._frames_to_leads(frames)
                rows = [row for row, lead in enumerate(leads) if lead_position(lead.label) is not None] or [0]
                if leads:  # further signals may have other rates
                    found.append(Part(leads, rates[rows[0]]))
            self._frames = runs[0] if runs else []  # avoids warnings about the other frames, which are read here
            super()._build_leads()

    return Parts()


MFER = Decoder("MFER", "MFERParser", _mfer_parts, _check_mfer).format((".mwf", ".mfr"), _is_mfer)
