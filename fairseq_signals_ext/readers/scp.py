"""Read SCP-ECG with `ecgdatakit`, after a check of the sizes in its sections."""

import struct
from pathlib import Path
from typing import Dict, List

from fairseq_signals_ext.readers.clinical import Decoder, check_number
from fairseq_signals_ext.readers.formats import Beginning

_MOST_LEADS = 64
_MOST_SAMPLES = 4_000_000  # of all its leads together, as each takes microseconds


def _is_scp(beginning: Beginning) -> bool:
    """Recognise SCP-ECG: section 0 is first, and its first pointer is byte 7 (EN 1064, 5.3)."""
    head = beginning.head
    if len(head) < 32:
        return False
    section, length = struct.unpack_from("<HI", head, 8)
    pointer, start = struct.unpack_from("<H4xI", head, 22)
    return section == 0 and length >= 26 and pointer == 0 and start == 7


def _check_scp(path: Path) -> None:
    content = path.read_bytes()
    sections = _scp_sections(content)
    three, four = sections.get(3, b""), sections.get(4, b"")
    leads = three[0] if three else 0
    check_number("leads", leads, _MOST_LEADS)
    if len(three) < 2 + 9 * leads:
        return
    ranges = [struct.unpack_from("<II", three, 2 + 9 * lead) for lead in range(leads)]
    samples = [max(end - start + 1, 0) for start, end in ranges]
    _check_sizes(sections.get(6, b""), samples)
    check_number("samples", sum(samples), _MOST_SAMPLES)
    beat = 0
    if len(four) >= 6 and len(sections.get(5, b"")) >= 6:
        milliseconds, _, beats = struct.unpack_from("<HHH", four)
        microseconds = struct.unpack_from("<H", sections[5], 2)[0] or 1
        beat = round(milliseconds * 1000 / microseconds)
        _check_sizes(sections[5], [beat] * leads)
        # each beat is added to each lead
        check_number("samples in beats", beats * leads * max(beat, 1000), 2 * 10**9)


def _scp_sections(content: bytes) -> Dict[int, bytes]:
    """Return the contents of sections 3 to 6."""
    found: Dict[int, bytes] = {}
    length = struct.unpack_from("<I", content, 10)[0] if len(content) >= 14 else 0
    for at in range(22, min(6 + length, len(content)) - 9, 10):
        number, size, start = struct.unpack_from("<HII", content, at)
        if not 3 <= number <= 6 or not size or not start:
            continue
        if number in found:
            raise ValueError(f"section {number} appears twice")
        found[number] = content[start - 1 + 16 : start - 1 + size]
    return found


def _check_sizes(section: bytes, samples: List[int]) -> None:
    """Raise a `ValueError` if a lead claims more samples than its bytes have bits."""
    if len(section) < 6 + 2 * len(samples):
        return
    sizes = struct.unpack_from(f"<{len(samples)}H", section, 6)
    for size, number in zip(sizes, samples):
        if number > 8 * size:
            raise ValueError(f"a lead claims {number:,} samples in {size:,} bytes")


SCP_ECG = Decoder("SCP-ECG", "SCPECGParser", check=_check_scp, copies=50.0).format((".scp",), _is_scp)
