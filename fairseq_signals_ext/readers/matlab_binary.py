"""Numeric matrices of MATLAB files of version 4 and 5 to 7.2.

scipy reads these files as well, but ends the whole process, or never ends, on damaged ones (found by fuzzing, scipy
1.17), and expands what is compressed without a limit. The formats are those of MathWorks' "MAT-File Format".
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

import numpy as np

from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.sizes import check_claim

# codes of the types that values are stored in
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TYPES_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)  # double, single and whole numbers; not text, cells, structs or sparse matrices
_LOGICAL, _COMPLEX = 2, 8
_HEADER, _HEADER_4 = 128, 20
_LONGEST_NAME = 256  # MATLAB's own are of at most 63 letters
_MOST_DIMENSIONS = 32
_MOST_VARIABLES = 10_000
# what comes before a matrix's values: tags, flags, dimensions and name
_BEFORE_VALUES = 8 + 16 + 8 + 4 * _MOST_DIMENSIONS + 8 + _LONGEST_NAME + 8


@dataclass(frozen=True)
class Matrix:
    """Where a numeric matrix is in its file.

    Attributes:
        shape: as MATLAB shows it.
        dtype: of its values as stored.
        is_complex: whether it has an imaginary part.
        values: place of its values in what `start` and `stop` hold, expanded if that is compressed.
        start, stop: bytes of the file that hold it.
        compressed: whether they are.
    """

    shape: Tuple[int, ...]
    dtype: np.dtype
    is_complex: bool
    values: int
    start: int
    stop: int
    compressed: bool


class BinaryMat:
    """A MATLAB file of version 4 to 7.2.

    Attributes:
        matrices: its numeric arrays by name.

    Raises:
        ValueError, struct.error, zlib.error: it is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._content = memoryview(path.read_bytes())
        self.matrices: Dict[str, Matrix] = {}
        found = self._version_5() if bytes(self._content[:6]) == b"MATLAB" else self._version_4()
        for count, (name, matrix) in enumerate(found):
            if count == _MOST_VARIABLES:
                raise ValueError(f"it has more than {_MOST_VARIABLES:,} variables")
            if name in self.matrices:
                raise ValueError(f"it has {shown(name, 40)!r} twice")
            if name and matrix is not None:
                self.matrices[name] = matrix

    def read(self, name: str) -> np.ndarray:
        """One of the matrices, with its values' own type."""
        matrix = self.matrices[name]
        if matrix.is_complex:
            raise ValueError(f"{shown(name, 40)!r} holds complex values, not real numbers")
        number = math.prod(matrix.shape)
        size = number * matrix.dtype.itemsize
        stored = self._content[matrix.start : matrix.stop]
        if matrix.compressed:
            check_claim(self._path, number, len(stored))
            stored = memoryview(zlib.decompressobj().decompress(stored, matrix.values + size))
        values = stored[matrix.values : matrix.values + size]
        if len(values) < size:
            raise ValueError(f"{shown(name, 40)!r} claims more samples than the file can hold")
        return np.frombuffer(values, matrix.dtype).reshape(matrix.shape, order="F")

    def _version_5(self) -> Iterator[Tuple[str, Optional[Matrix]]]:
        order = {b"IM": "<", b"MI": ">"}.get(bytes(self._content[126:128]))
        if order is None:
            raise ValueError("its header does not say its byte order")
        at = _HEADER
        while at + 8 <= len(self._content):
            kind, size = struct.unpack_from(f"{order}II", self._content, at)
            start, stop = at + 8, at + 8 + size
            if stop > len(self._content):
                raise ValueError("it is cut short")
            if kind == _COMPRESSED:
                beginning = zlib.decompressobj().decompress(self._content[start:stop], _BEFORE_VALUES)
                yield _described(memoryview(beginning), 8, order, start, stop, True)
            elif kind == _MATRIX:
                yield _described(self._content[start : min(stop, start + _BEFORE_VALUES)], 0, order, start, stop, False)
            at = stop

    def _version_4(self) -> Iterator[Tuple[str, Optional[Matrix]]]:
        at = 0
        while at + _HEADER_4 <= len(self._content):
            kind, rows, columns, imaginary, length = struct.unpack_from("<5i", self._content, at)
            thousands, (stored_as, is_other) = kind // 1000, divmod(kind % 100, 10)
            known = thousands == 0 and 0 <= stored_as < len(_TYPES_4)
            if not known or rows < 0 or columns < 0 or not 0 < length <= _LONGEST_NAME:
                raise ValueError("a matrix's header is damaged")
            start = at + _HEADER_4 + length
            name = bytes(self._content[at + _HEADER_4 : start]).rstrip(b"\0").decode("latin-1")
            dtype = np.dtype("<" + _TYPES_4[stored_as])
            at = start + (2 if imaginary else 1) * rows * columns * dtype.itemsize
            if at > len(self._content):
                raise ValueError(f"{shown(name, 40)!r} claims more samples than the file can hold")
            matrix = Matrix((rows, columns), dtype, bool(imaginary), 0, start, at, False)
            yield name, None if is_other else matrix


def _described(
    beginning: memoryview, at: int, order: str, start: int, stop: int, compressed: bool
) -> Tuple[str, Optional[Matrix]]:
    """Name of a variable of version 5, and where its values are if it is a numeric matrix."""
    _, flags, at = _element(beginning, at, order)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    _, sizes, at = _element(beginning, at, order)
    if not 2 <= len(sizes) // 4 <= _MOST_DIMENSIONS:
        raise ValueError("a matrix has no dimensions")
    shape = struct.unpack_from(f"{order}{len(sizes) // 4}i", sizes)
    _, name, at = _element(beginning, at, order)
    named, options = bytes(name).rstrip(b"\0").decode("latin-1"), kind >> 8
    if kind & 0xFF not in _NUMERIC_CLASSES or options & _LOGICAL or min(shape) < 0:
        return named, None
    stored_as, _, values, size = _tag(beginning, at, order)
    if stored_as not in _TYPES:
        raise ValueError(f"{shown(named, 40)!r} has values of an unknown type")
    dtype = np.dtype(order + _TYPES[stored_as])
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{shown(named, 40)!r} claims {math.prod(shape)} samples, but has {size // dtype.itemsize}")
    return named, Matrix(shape, dtype, bool(options & _COMPLEX), values, start, stop, compressed)


def _tag(content: memoryview, at: int, order: str) -> Tuple[int, int, int, int]:
    """Of an element: its type, where the next one begins, where its data begin, and their size."""
    kind, size = struct.unpack_from(f"{order}II", content, at)
    if kind >> 16:  # the data are in the second half of the tag
        return kind & 0xFFFF, at + 8, at + 4, kind >> 16
    return kind, at + 8 + -(-size // 8) * 8, at + 8, size


def _element(content: memoryview, at: int, order: str) -> Tuple[int, memoryview, int]:
    kind, following, start, size = _tag(content, at, order)
    if start + size > len(content):
        raise ValueError("a matrix's header is cut short")
    return kind, content[start : start + size], following
