"""The numeric matrices and texts in a MATLAB file of version 4 to 7.3, also in structs; nothing else in it is read."""

import itertools
import math
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple, Type

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.matlab_binary import BinaryMat
from fairseq_signals_ext.readers.sizes import check_claim

_MOST_OBJECTS = 1000  # of an HDF5 file; each takes time to look at
# HDF5's filters: shuffle and a checksum keep the size of a chunk; what deflate expands is checked
_DEFLATE, _KNOWN_FILTERS = 1, {1, 2, 3}
_DEFLATE_RATIO = 1100  # deflate makes nothing smaller than 1/1032
_CHUNK_UNCHECKED = 2**28  # bytes that a chunk may expand to without a look
_MOST_CHUNKS = 10_000
_LONGEST_TEXT = 1024  # letters
HDF5_MARK = b"\x89HDF\r\n\x1a\n"
_BEFORE_HDF5 = 512  # bytes of MATLAB's own before HDF5


def is_hdf5(head: bytes) -> bool:
    """Whether a file is HDF5, as MATLAB's version 7.3 is behind a block of its own; from its first 520 bytes."""
    behind = head[_BEFORE_HDF5 : _BEFORE_HDF5 + len(HDF5_MARK)]
    return head.startswith(HDF5_MARK) or (head.startswith(b"MATLAB") and behind == HDF5_MARK)


class MatFile:
    """A MATLAB file, opened by `with`.

    Attributes:
        shapes: names and shapes (as MATLAB shows them) of its numeric arrays; those in a struct (of size 1 x 1) are
            called `STRUCT.FIELD`.
        texts: names of its texts, in the same way.
        others: names of what is neither, such as cells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: Dict[str, Tuple[int, ...]] = {}
        self.texts: Set[str] = set()
        self.others: Set[str] = set()
        self._hdf5_names: Dict[str, str] = {}
        self._hdf5: Any = None
        self._binary: Optional[BinaryMat] = None

    @property
    def is_of_matlab(self) -> bool:
        """Whether MATLAB, which reverses dimensions, wrote it, and no other program plain HDF5."""
        return self._hdf5 is None or self._hdf5.userblock_size > 0

    @property
    def names(self) -> Set[str]:
        """Of all its variables."""
        return {*self.shapes, *self.texts, *self.others}

    def __enter__(self) -> "MatFile":
        try:
            with open(self.path, "rb") as file:
                head = file.read(_BEFORE_HDF5 + len(HDF5_MARK))
            if is_hdf5(head):
                self._open_hdf5()
            else:
                self._binary = BinaryMat(self.path)
                self.shapes = {name: matrix.shape for name, matrix in self._binary.matrices.items()}
                self.texts, self.others = set(self._binary.texts), self._binary.others
        except ImportError:
            raise
        except Exception as error:  # damaged bytes can make Python and h5py raise anything
            raise self._unreadable(error) from error
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._hdf5 is not None:
            self._hdf5.close()

    def read(self, name: str) -> np.ndarray:
        """One of the arrays named in `shapes`.

        Raises:
            UserError: there is no such array, it cannot be decoded, or it claims more bytes than the file can hold.
        """
        if name not in self.shapes:
            raise self._unreadable(f"it has no matrix {shown(name, 40)!r}")
        try:
            return self._binary.read(name) if self._binary is not None else self._from_hdf5(name)
        except UserError:
            raise
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error

    def text(self, name: str) -> str:
        """One of the texts named in `texts`; of several rows, or longer than 1,024 bytes, is a `UserError`."""
        try:
            return self._binary.text(name) if self._binary is not None else self._text_from_hdf5(name)
        except UserError:
            raise
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error

    def written(self, name: str) -> Any:
        """A text, or a single number as such; None where there is nothing by this name or what is there is empty.

        Raises:
            UserError: it is something else, such as several numbers or a cell, or it is damaged.
        """
        if name in self.texts:
            return self.text(name) or None
        if name in self.others or math.prod(self.shapes.get(name, ())) > 1:
            raise self._unreadable(f"{shown(name, 40)!r} is neither one number nor one text")
        values = self.read(name).ravel().tolist() if name in self.shapes else []
        return values[0] if values else None

    def _unreadable(self, reason: object) -> UserError:
        return UserError(f"{self.path}: cannot be read as a MATLAB file ({shown(str(reason))}); save it again")

    def _open_hdf5(self) -> None:
        """MATLAB 7.3 is HDF5 with the dimensions in reverse; links to other files are not followed."""
        import h5py

        self._hdf5 = h5py.File(self.path, "r")
        for name, data in self._objects():
            if data.shape is None or data.dtype.kind not in "iuf":
                self.others.add(name)
            elif "MATLAB_empty" in data.attrs:  # what it holds is its shape
                continue
            elif _matlab_class(data) == "char":
                self.texts.add(name)
            else:
                self.shapes[name] = tuple(reversed(data.shape))
            self._hdf5_names[name] = data.name

    def _objects(self) -> Iterator[Tuple[str, Any]]:
        """The data sets of this file by name, also those in its groups, which stand for structs."""
        import h5py

        groups, seen = [("", self._hdf5)], 0
        while groups:
            before, group = groups.pop(0)
            seen += len(group)
            if seen > _MOST_OBJECTS:
                raise ValueError(f"it has more than {_MOST_OBJECTS:,} variables")
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                data = group[name]
                if isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual:
                    yield before + name, data
                elif isinstance(data, h5py.Group) and not before and not name.startswith("#"):
                    groups.append((f"{name}.", data))

    def _from_hdf5(self, name: str) -> np.ndarray:
        data = self._hdf5[self._hdf5_names[name]]
        stored = self._stored(data)
        if math.prod(data.shape) > _DEFLATE_RATIO * stored:  # the rest would be made up of a fill value
            raise ValueError(f"{shown(name, 40)!r} claims more samples than fit into the file")
        check_claim(self.path, math.prod(data.shape), stored)
        self._check_chunks(data)
        return np.asarray(data[()]).T

    def _stored(self, data: Any) -> int:
        """Bytes that a data set takes in the file; HDF5 would reserve memory for any size."""
        stored = int(data.id.get_storage_size())
        if stored > os.path.getsize(self.path):
            raise ValueError(f"{shown(data.name, 40)!r} claims more bytes than the file has")
        return stored

    def _text_from_hdf5(self, name: str) -> str:
        shape = self._hdf5[self._hdf5_names[name]].shape
        if math.prod(shape) > _LONGEST_TEXT or min(shape, default=1) > 1:
            raise ValueError(f"{shown(name, 40)!r} is not one short line of text")
        return "".join(chr(int(code)) for code in self._from_hdf5(name).ravel() if 0 <= code < 2**16)

    def _check_chunks(self, data: Any) -> None:
        """HDF5 expands a chunk to any size, so it is checked before; large ones are few."""
        if data.chunks is None:
            return
        expected = math.prod(data.chunks) * data.dtype.itemsize
        kinds = self._filters(data, self._stored(data))
        chunks = (data.id.get_chunk_info(number) for number in range(data.id.get_num_chunks()))
        for chunk in chunks if _DEFLATE in kinds else ():
            _check_chunk(data, chunk, expected)

    def part(self, name: str, number: int) -> np.ndarray:
        """Part `number` along the first dimension, as HDF5 orders them, of an array in a file of version 7.3.

        Raises:
            UserError: as `read`.
        """
        try:
            return self._part(self._hdf5[self._hdf5_names[name]], number)
        except UserError:
            raise
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error

    def _part(self, data: Any, number: int) -> np.ndarray:
        stored = self._stored(data)
        if math.prod(data.shape) > _DEFLATE_RATIO * stored:  # the rest would be made up of a fill value
            raise ValueError("its array claims more samples than fit into the file")
        check_claim(self.path, math.prod(data.shape[1:]), stored)
        if data.chunks is not None:
            kinds = self._filters(data, stored)
            steps = [range(0, size, step) for size, step in zip(data.shape[1:], data.chunks[1:])]
            if math.prod(map(len, steps)) > _MOST_CHUNKS:
                raise ValueError(f"its array has more than {_MOST_CHUNKS:,} chunks per ECG")
            expected = math.prod(data.chunks) * data.dtype.itemsize
            first = number - number % data.chunks[0]
            for place in itertools.product([first], *steps) if _DEFLATE in kinds else ():
                _check_chunk(data, data.id.get_chunk_info_by_coord(place), expected)
        return np.asarray(data[number])

    def _filters(self, data: Any, stored: int) -> List[int]:
        check_claim(self.path, math.prod(data.chunks), stored)
        filters = data.id.get_create_plist()
        kinds = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
        if not set(kinds) <= _KNOWN_FILTERS or len(set(kinds)) != len(kinds):
            raise ValueError(f"{shown(data.name, 40)!r} is compressed in a way that MATLAB does not use")
        return kinds


def _check_chunk(data: Any, chunk: Any, expected: int) -> None:
    """Raise unless a compressed chunk expands to at most the bytes that are expected."""
    if chunk.size * _DEFLATE_RATIO <= _CHUNK_UNCHECKED:
        return
    _, raw = data.id.read_direct_chunk(chunk.chunk_offset)
    expander = zlib.decompressobj()
    left = expected + 64  # a checksum comes with it
    while left > 0 and not expander.eof and raw:
        left -= len(expander.decompress(raw, min(left, 2**20)))
        raw = expander.unconsumed_tail
    if left <= 0:
        raise ValueError(f"a part of {shown(data.name, 40)!r} expands to more than it claims")


def _matlab_class(data: Any) -> str:
    """What MATLAB 7.3 writes beside a data set: `double`, `char`, ...; empty if nothing."""
    if "MATLAB_class" not in data.attrs:
        return ""
    attribute = data.attrs.get_id("MATLAB_class")
    if attribute.shape not in ((), (1,)) or attribute.dtype.itemsize > _LONGEST_TEXT:
        return ""
    value = np.ravel(data.attrs["MATLAB_class"])[0]
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
