"""Ways to spoil the bytes of a file, each drawn from a random generator so that its number gives it again."""

import random
import re
import struct
from typing import Callable, List

_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_FIELD = re.compile(rb"[^\s,;<>=\"']+")
_EXTREMES = [
    *(b"0", b"-1", b"1", b"2", b"255", b"65535", b"65536", b"2147483647", b"-2147483648", b"4294967295", b"99999999"),
    *(b"9223372036854775807", b"9" * 30, b"9" * 400, b"9" * 5000, b"1e308", b"-1e308", b"1e400", b"nan", b"inf"),
    *(b"1e-320", b"0x10", b"1_0", b"", b"\xd9\xa1", b"0.0000001", b"100000000", b"1000000"),
]
_PIECES = [
    *(b"\0", b"\xff" * 4, b"\n", b"\r\n", b"#", b"~", b"/", b"(0)", b":100000000", b"x100000000", b"+99999999999"),
    *(b"<", b">", b"&", b'"', b"<![CDATA[", b"<!--", b"]]>", b"<!ENTITY a 'b'>", b"[", b"{", b"}", b",", b";", b"\t"),
    *(b"1e400", b"NaN", b"\xfe\xff", b"\xef\xbb\xbf", b"../", b"%s", b"="),
]
_RUNS = [*(bytes([code]) for code in b" \t\x01\x1c0[{(<,;-+:/.\"'e#~A\n"), b"\xc2\x85", b"-1,", b"<a>", b"[]", b"\0"]
_WHOLE = ["<H", ">H", "<I", ">I", "<Q", "<d", ">d", "<f"]
_VALUES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 10**6, 10**8, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]

Mutation = Callable[[random.Random, bytes], bytes]


def mutated(chance: random.Random, content: bytes) -> bytes:
    """The content after one to four mutations."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        if content:
            content = chance.choices(_MUTATIONS, _WEIGHTS)[0](chance, content)
    return content


def _place(chance: random.Random, content: bytes) -> int:
    """Anywhere, but half of the time near the beginning, where headers are."""
    reach = len(content) if chance.random() < 0.5 else min(len(content), 600)
    return chance.randrange(reach)


def _flip(chance: random.Random, content: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        raw[_place(chance, content)] ^= 1 << chance.randrange(8)
    return bytes(raw)


def _byte(chance: random.Random, content: bytes) -> bytes:
    at = _place(chance, content)
    return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]


def _whole_number(chance: random.Random, content: bytes) -> bytes:
    """A binary number replaced by an extreme one."""
    form, at = chance.choice(_WHOLE), _place(chance, content)
    if form[1] in "df":
        packed = struct.pack(form, chance.choice((0.0, -1.0, 1e30, float("inf"), float("nan"), 1e-40)))
    else:
        size = struct.calcsize(form)
        packed = struct.pack(form, chance.choice(_VALUES) & (256**size - 1))
    return content[:at] + packed + content[at + len(packed) :]


def _number(chance: random.Random, content: bytes) -> bytes:
    """A number in text replaced by an extreme one."""
    found = _NUMBER.search(content, _place(chance, content))
    if found is None:
        return content
    new = chance.choice(_EXTREMES)
    if chance.random() < 0.3:  # formats with fields of a fixed width
        new = new[: len(found.group())].ljust(len(found.group()))
    return content[: found.start()] + new + content[found.end() :]


def _swap(chance: random.Random, content: bytes) -> bytes:
    """Two fields of text exchanged."""
    one = _FIELD.search(content, _place(chance, content))
    two = _FIELD.search(content, _place(chance, content))
    if one is None or two is None:
        return content
    one, two = sorted((one, two), key=lambda match: match.start())
    if one.end() > two.start():
        return content
    middle = content[one.end() : two.start()]
    return content[: one.start()] + two.group() + middle + one.group() + content[two.end() :]


def _swap_lines(chance: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    if not 2 < len(lines) < 10_000:
        return content
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    if chance.random() < 0.3:
        lines[one:one] = [lines[two]] * chance.choice((1, 3, 300))
    else:
        lines[one], lines[two] = lines[two], lines[one]
    return b"\n".join(lines)


def _insert(chance: random.Random, content: bytes) -> bytes:
    at = _place(chance, content)
    piece = chance.choice(_PIECES) if chance.random() < 0.7 else chance.randbytes(chance.choice((1, 4, 100)))
    return content[:at] + piece + content[at:]


def _run(chance: random.Random, content: bytes) -> bytes:
    """Repeat one text many times, which makes expressions and parsers slow."""
    at = _place(chance, content)
    if chance.random() < 0.5 and (field := _FIELD.search(content, at)):
        at = field.end()
    return content[:at] + chance.choice(_RUNS) * chance.choice((30, 300, 3000, 30_000)) + content[at:]


def _cut(chance: random.Random, content: bytes) -> bytes:
    at = _place(chance, content)
    return content[:at] + content[at + chance.choice((1, 2, 4, 16, 256, 4096)) :]


def _copy(chance: random.Random, content: bytes) -> bytes:
    """A block written over another place, or put in there."""
    start, at, length = _place(chance, content), _place(chance, content), chance.choice((2, 8, 64, 512, 4096))
    block = content[start : start + length]
    return content[:at] + block + content[at + (len(block) if chance.random() < 0.5 else 0) :]


def _truncate(chance: random.Random, content: bytes) -> bytes:
    return content[: _place(chance, content)]


_MUTATIONS: List[Mutation] = [
    *(_flip, _byte, _whole_number, _number, _swap, _swap_lines, _insert, _run, _cut, _copy, _truncate),
]
_WEIGHTS = [3, 3, 4, 5, 2, 1, 2, 2, 2, 2, 1]
