"""Read numeric matrices and texts, also in structs, from MATLAB files of version 4 and 5 to 7.2.

scipy reads these files as well, but crashes or hangs on damaged ones (found by fuzzing, scipy 1.17), and expands
compressed data without a limit. The formats are described in MathWorks' "MAT-File Format".
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Optional, Set, Tuple

import numpy as np

from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.sizes import check_claim

# codes of storage types
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TYPES_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _TEXT = 2, 4
_NUMERIC_CLASSES = range(6, 16)  # double, single and whole numbers; not cells, objects or sparse matrices
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}  # of types of text
_LOGICAL, _COMPLEX = 2, 8
_HEADER, _HEADER_4 = 128, 20
_LONGEST_NAME = 256  # MATLAB's own are of at most 63 letters
_MOST_DIMENSIONS = 32
_MOST_VARIABLES = 10_000
_MOST_STRUCTS, _MOST_FIELDS = 10, 100  # that are read
_LONGEST_TEXT = 1024  # bytes
# bytes before a matrix's values: tags, flags, dimensions and name
_BEFORE_VALUES = 8 + 16 + 8 + 4 * _MOST_DIMENSIONS + 8 + _LONGEST_NAME + 8


@dataclass(frozen=True)
class Matrix:
    """Where a numeric matrix or a text is in its file.

    Attributes:
        shape: as MATLAB shows it.
        dtype: of its values as stored; of a text single bytes.
        is_complex: whether it has an imaginary part.
        values: position of its values in the (expanded) bytes from `start` to `stop`.
        start, stop: its bytes in the file.
        compressed: whether these bytes are compressed.
        size: bytes of its values.
        encoding: of a text; empty for numbers.
    """

    shape: Tuple[int, ...]
    dtype: np.dtype
    is_complex: bool
    values: int
    start: int
    stop: int
    compressed: bool
    size: int
    encoding: str = ""


@dataclass(frozen=True)
class _Stored:
    """A variable of version 5: its bytes in the file, and how they are written."""

    start: int
    stop: int
    compressed: bool
    order: str


class BinaryMat:
    """A MATLAB file of version 4 to 7.2.

    Attributes:
        matrices: its numeric arrays by name; those in a struct (of size 1 x 1) as `STRUCT.FIELD`.
        texts: the same of its texts.
        others: names of other variables, such as cells and structs of other sizes.

    Raises:
        ValueError, struct.error, zlib.error: it is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._content = memoryview(path.read_bytes())
        self.matrices: Dict[str, Matrix] = {}
        self.texts: Dict[str, Matrix] = {}
        self.others: Set[str] = set()
        self._structs = 0
        found = self._version_5() if bytes(self._content[:6]) == b"MATLAB" else self._version_4()
        for count, (name, matrix) in enumerate(found):
            if count == _MOST_VARIABLES:
                raise ValueError(f"it has more than {_MOST_VARIABLES:,} variables")
            if name in self.matrices or name in self.texts:
                raise ValueError(f"it has {shown(name, 40)!r} twice")
            if matrix is None:
                self.others.add(name)
            elif name:
                (self.texts if matrix.encoding else self.matrices)[name] = matrix

    def read(self, name: str) -> np.ndarray:
        """Return one of the matrices in its stored type."""
        matrix = self.matrices[name]
        if matrix.is_complex:
            raise ValueError(f"{shown(name, 40)!r} contains complex values, not real numbers")
        return np.frombuffer(self._values(name, matrix), matrix.dtype).reshape(matrix.shape, order="F")

    def text(self, name: str) -> str:
        """Return one of the texts."""
        matrix = self.texts[name]
        if matrix.size > _LONGEST_TEXT or (matrix.size and matrix.shape[0] != 1):
            raise ValueError(f"{shown(name, 40)!r} is not one short line of text")
        values = bytes(self._values(name, matrix))
        if matrix.dtype.itemsize == 1:
            return values.decode(matrix.encoding, "replace")
        return "".join(chr(int(code) & 0xFFFF) for code in np.frombuffer(values, matrix.dtype) if 0 <= code < 2**16)

    def _values(self, name: str, matrix: Matrix) -> memoryview:
        stored = self._content[matrix.start : matrix.stop]
        if matrix.compressed:
            check_claim(self._path, (matrix.values + matrix.size) // matrix.dtype.itemsize, len(stored))
            stored = memoryview(zlib.decompressobj().decompress(stored, matrix.values + matrix.size))
        values = stored[matrix.values : matrix.values + matrix.size]
        if len(values) < matrix.size:
            raise ValueError(f"{shown(name, 40)!r} claims more samples than fit into the file")
        return values

    def _version_5(self) -> Iterator[Tuple[str, Optional[Matrix]]]:
        order = {b"IM": "<", b"MI": ">"}.get(bytes(self._content[126:128]))
        if order is None:
            raise ValueError("its header does not define its byte order")
        at = _HEADER
        while at + 8 <= len(self._content):
            kind, size = struct.unpack_from(f"{order}II", self._content, at)
            start, stop = at + 8, at + 8 + size
            if stop > len(self._content):
                raise ValueError("it is cut short")
            if kind in (_COMPRESSED, _MATRIX):
                yield from self._described(_Stored(start, stop, kind == _COMPRESSED, order))
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
                raise ValueError(f"{shown(name, 40)!r} claims more samples than fit into the file")
            size = rows * columns * dtype.itemsize
            encoding = "latin-1" if is_other == 1 else ""
            matrix = Matrix((rows, columns), dtype, bool(imaginary), 0, start, at, False, size, encoding)
            yield name, None if is_other > 1 else matrix

    def _described(self, stored: _Stored) -> Iterator[Tuple[str, Optional[Matrix]]]:
        """Yield the name and description of a variable of version 5, or of each field of a struct."""
        beginning, at = self._beginning(stored, _BEFORE_VALUES), 8 if stored.compressed else 0
        kind, shape, name, at = _header(beginning, at, stored.order)
        if kind & 0xFF != _STRUCT or math.prod(shape) != 1 or self._structs == _MOST_STRUCTS:
            yield name, _matrix(beginning, kind, shape, name, at, stored)
            return
        self._structs += 1
        if stored.compressed:
            _, size = struct.unpack_from(f"{stored.order}II", beginning)
            check_claim(self._path, size, stored.stop - stored.start)
            beginning = self._beginning(stored, 8 + size)
        else:
            beginning = self._content[stored.start : stored.stop]
        for field, start in list(_fields(beginning, at, stored.order)):
            kind, shape, _, at = _header(beginning, start, stored.order)
            yield f"{name}.{field}", _matrix(beginning, kind, shape, field, at, stored)

    def _beginning(self, stored: _Stored, size: int) -> memoryview:
        if not stored.compressed:
            return self._content[stored.start : min(stored.stop, stored.start + size)]
        return memoryview(zlib.decompressobj().decompress(self._content[stored.start : stored.stop], size))


def _header(content: memoryview, at: int, order: str) -> Tuple[int, Tuple[int, ...], str, int]:
    """Return flags, shape and name of the matrix that begins here, and where its next element begins."""
    _, flags, at = _element(content, at, order)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    _, sizes, at = _element(content, at, order)
    if not 2 <= len(sizes) // 4 <= _MOST_DIMENSIONS:
        raise ValueError("a matrix has no dimensions")
    shape = struct.unpack_from(f"{order}{len(sizes) // 4}i", sizes)
    _, name, at = _element(content, at, order)
    return kind, shape, bytes(name).rstrip(b"\0").decode("latin-1"), at


def _matrix(
    content: memoryview, kind: int, shape: Tuple[int, ...], name: str, at: int, stored: _Stored
) -> Optional[Matrix]:
    """Return the description of a numeric matrix or a text; None for another variable."""
    is_text, is_complex = kind & 0xFF == _TEXT, bool(kind >> 8 & _COMPLEX)
    if not (is_text or kind & 0xFF in _NUMERIC_CLASSES) or kind >> 8 & _LOGICAL or min(shape) < 0:
        return None
    stored_as, _, values, size = _tag(content, at, stored.order)
    place = (values, stored.start, stored.stop, stored.compressed, size)
    if is_text:
        encoding = _ENCODINGS.get(stored_as, "latin-1")
        wide = encoding in ("utf-16", "utf-32")  # without a mark of the byte order in front
        encoding = encoding + ("-le" if stored.order == "<" else "-be") if wide else encoding
        return Matrix(shape, np.dtype("u1"), is_complex, *place, encoding)
    if stored_as not in _TYPES:
        raise ValueError(f"{shown(name, 40)!r} has values of an unknown type")
    dtype = np.dtype(stored.order + _TYPES[stored_as])
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{shown(name, 40)!r} claims {math.prod(shape)} samples, but has {size // dtype.itemsize}")
    return Matrix(shape, dtype, is_complex, *place)


def _fields(content: memoryview, at: int, order: str) -> Iterator[Tuple[str, int]]:
    """Yield the names of a struct's fields, and where the content of each begins."""
    _, length, at = _element(content, at, order)
    (longest,) = struct.unpack_from(f"{order}i", length)
    _, names, at = _element(content, at, order)
    if not 0 < longest <= _LONGEST_NAME or len(names) > _MOST_FIELDS * longest:
        raise ValueError("a struct's names of fields are damaged")
    for number in range(len(names) // longest):
        kind, following, start, _ = _tag(content, at, order)
        if kind != _MATRIX or following > len(content) + 8:
            raise ValueError("a struct's field is cut short")
        written = bytes(names[number * longest : (number + 1) * longest])
        if following > start:
            yield written.split(b"\0")[0].decode("latin-1"), start
        at = following


def _tag(content: memoryview, at: int, order: str) -> Tuple[int, int, int, int]:
    """Return for an element: its type, where the next one begins, where its data begin, and their size."""
    kind, size = struct.unpack_from(f"{order}II", content, at)
    if kind >> 16:  # the data are in the second half of the tag
        return kind & 0xFFFF, at + 8, at + 4, kind >> 16
    return kind, at + 8 + -(-size // 8) * 8, at + 8, size


def _element(content: memoryview, at: int, order: str) -> Tuple[int, memoryview, int]:
    kind, following, start, size = _tag(content, at, order)
    if start + size > len(content):
        raise ValueError("a matrix's header is cut short")
    return kind, content[start : start + size], following
