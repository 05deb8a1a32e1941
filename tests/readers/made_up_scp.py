"""Small SCP-ECG records, and their checksums."""

import binascii
import contextlib
import struct
from typing import List, Optional

import numpy as np

SAMPLES = 60


def counts(leads: int = 12, samples: int = SAMPLES) -> np.ndarray:
    """leads x samples, int16."""
    return np.random.default_rng(0).integers(-900, 900, (leads, samples)).astype(np.int16)


def repair_scp(content: bytes) -> bytes:
    """The checksums of an SCP-ECG record and its sections, as they ought to be."""
    raw = bytearray(content)
    with contextlib.suppress(struct.error, IndexError):
        struct.pack_into("<I", raw, 2, len(raw))
        length = struct.unpack_from("<I", raw, 10)[0]
        sections = [(6, length)]
        for at in range(22, min(6 + length, len(raw) - 9), 10):
            _, size, start = struct.unpack_from("<HII", raw, at)
            if size and start:
                sections.append((start - 1, size))
        for start, size in sections:
            struct.pack_into("<H", raw, start, binascii.crc_hqx(bytes(raw[start + 2 : start + size]), 0xFFFF))
        struct.pack_into("<H", raw, 6, binascii.crc_hqx(bytes(raw[8 : 6 + length]), 0xFFFF))
        struct.pack_into("<H", raw, 0, binascii.crc_hqx(bytes(raw[2:]), 0xFFFF))
    return bytes(raw)


def scp(leads: List[int], samples: int = SAMPLES, end: Optional[int] = None, huffman: bool = False) -> bytes:
    """Return a small SCP-ECG record with uncompressed samples.

    Args:
        end: last sample according to the record.
        huffman: whether the samples are marked as compressed.
    """
    body = counts(len(leads), samples)

    def section(number: int, content: bytes) -> bytes:
        name = b"SCPECG" if number == 0 else b""
        return struct.pack("<HHIBB6s", 0, number, 16 + len(content), 20, 20, name) + content

    three = bytes([len(leads), 0x04 | len(leads) << 3 & 0xF8])
    three += b"".join(struct.pack("<IIB", 1, end or samples, lead) for lead in leads)
    six = struct.pack("<HHBB", 1000, 2000, 0, 0)
    six += struct.pack("<H", 2 * samples) * len(leads)
    others = {3: section(3, three), 6: section(6, six + body.astype("<i2").tobytes())}
    if huffman:
        others = {2: section(2, struct.pack("<H", 19999)), **others}
    start, pointers = 6 + 16 + 120, struct.pack("<HII", 0, 136, 7)
    for number in range(1, 12):
        found = others.get(number)
        pointers += struct.pack("<HII", number, len(found) if found else 0, start + 1 if found else 0)
        start += len(found) if found else 0
    raw = b"\0" * 6 + section(0, pointers) + b"".join(others.values())
    return repair_scp(raw)
