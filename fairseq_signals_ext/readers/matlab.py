"""Read numeric matrices and texts, also in structs, from MATLAB files of version 4 to 7.3."""

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

_MOST_OBJECTS = 1000  # of an HDF5 file; each takes time to open
# HDF5's filters: shuffle and checksum keep the size of a chunk; the expanded size of deflate is checked
_DEFLATE, _KNOWN_FILTERS = 1, {1, 2, 3}
_DEFLATE_RATIO = 1100  # deflate compresses by at most 1032
_CHUNK_UNCHECKED = 2**28  # bytes that a chunk may expand to without a check
_MOST_CHUNKS = 10_000
_LONGEST_TEXT = 1024  # letters
HDF5_MARK = b"\x89HDF\r\n\x1a\n"
_BEFORE_HDF5 = 512  # bytes of MATLAB's own before HDF5


def is_hdf5(head: bytes) -> bool:
    """Return whether a file is HDF5, plain or after the 512 bytes of MATLAB 7.3; from its first 520 bytes."""
    behind = head[_BEFORE_HDF5 : _BEFORE_HDF5 + len(HDF5_MARK)]
    return head.startswith(HDF5_MARK) or (head.startswith(b"MATLAB") and behind == HDF5_MARK)


class MatFile:
    """A MATLAB file, opened by `with`.

    Attributes:
        shapes: names and shapes (as MATLAB shows them) of its numeric arrays; those in a struct (of size 1 x 1) are
            called `STRUCT.FIELD`.
        texts: names of its texts, in the same way.
        others: names of other variables, such as cells.
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
        """Whether MATLAB wrote it, which reverses dimensions; False for plain HDF5 of another program."""
        return self._hdf5 is None or self._hdf5.userblock_size > 0

    @property
    def names(self) -> Set[str]:
        """Names of all its variables."""
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
        """Return one of the arrays named in `shapes`.

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
        """Return one of the texts named in `texts`; several rows or more than 1,024 bytes raise a `UserError`."""
        try:
            return self._binary.text(name) if self._binary is not None else self._text_from_hdf5(name)
        except UserError:
            raise
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error

    def written(self, name: str) -> Any:
        """Return a text or a single number; None if there is no such variable or it is empty.

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
        """Open MATLAB 7.3, which is HDF5 with reversed dimensions; links to other files are not followed."""
        import h5py

        self._hdf5 = h5py.File(self.path, "r")
        for name, data in self._objects():
            if data.shape is None or data.dtype.kind not in "iuf":
                self.others.add(name)
            elif "MATLAB_empty" in data.attrs:  # its values are the shape of an empty array
                continue
            elif _matlab_class(data) == "char":
                self.texts.add(name)
            else:
                self.shapes[name] = tuple(reversed(data.shape))
            self._hdf5_names[name] = data.name

    def _objects(self) -> Iterator[Tuple[str, Any]]:
        """Yield the data sets of this file with their names, also those in groups (MATLAB's structs)."""
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
        if math.prod(data.shape) > _DEFLATE_RATIO * stored:  # HDF5 would fill the rest with a fill value
            raise ValueError(f"{shown(name, 40)!r} claims more samples than fit into the file")
        check_claim(self.path, math.prod(data.shape), stored)
        self._check_chunks(data)
        return np.asarray(data[()]).T

    def _stored(self, data: Any) -> int:
        """Return the stored bytes of a data set, at most the file's size; HDF5 would reserve memory for any size."""
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
        """Check the expanded size of all chunks, as HDF5 would expand a chunk to any size."""
        if data.chunks is None:
            return
        expected = math.prod(data.chunks) * data.dtype.itemsize
        kinds = self._filters(data, self._stored(data))
        chunks = (data.id.get_chunk_info(number) for number in range(data.id.get_num_chunks()))
        for chunk in chunks if _DEFLATE in kinds else ():
            _check_chunk(data, chunk, expected)

    def part(self, name: str, number: int) -> np.ndarray:
        """Return element `number` along the first dimension (in HDF5's order) of an array in an HDF5 file.

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
        if math.prod(data.shape) > _DEFLATE_RATIO * stored:  # HDF5 would fill the rest with a fill value
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
    """Return MATLAB's class of a data set: `double`, `char`, ...; empty if there is none."""
    if "MATLAB_class" not in data.attrs:
        return ""
    attribute = data.attrs.get_id("MATLAB_class")
    if attribute.shape not in ((), (1,)) or attribute.dtype.itemsize > _LONGEST_TEXT:
        return ""
    value = np.ravel(data.attrs["MATLAB_class"])[0]
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
