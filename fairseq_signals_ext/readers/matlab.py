"""The numeric matrices in a MATLAB file of version 4 to 7.3; nothing else in it is read."""

import math
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Tuple, Type

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.matlab_binary import BinaryMat
from fairseq_signals_ext.readers.sizes import check_claim

_MOST_OBJECTS = 1000  # of an HDF5 file; each takes time to look at
# HDF5's filters: shuffle and a checksum keep the size of a chunk; what deflate expands is checked
_DEFLATE, _KNOWN_FILTERS = 1, {1, 2, 3}
_DEFLATE_RATIO = 1100  # deflate makes nothing smaller than 1/1032
_CHUNK_UNCHECKED = 2**28  # bytes that a chunk may expand to without a look


class MatFile:
    """A MATLAB file, opened by `with`.

    Attributes:
        shapes: names and shapes (as MATLAB shows them) of its numeric arrays.
    """

    def __init__(self, path: Path, is_hdf5: bool) -> None:
        self.path = path
        self.shapes: Dict[str, Tuple[int, ...]] = {}
        self._hdf5: Any = None
        self._binary: Optional[BinaryMat] = None
        self._is_hdf5 = is_hdf5

    def __enter__(self) -> "MatFile":
        try:
            if self._is_hdf5:
                self._open_hdf5()
            else:
                self._binary = BinaryMat(self.path)
                self.shapes = {name: matrix.shape for name, matrix in self._binary.matrices.items()}
        except ImportError:
            raise
        except Exception as error:  # damaged bytes make Python and h5py raise whatever they have
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
            UserError: it cannot be decoded, or it claims more bytes than the file can hold.
        """
        try:
            return self._binary.read(name) if self._binary is not None else self._from_hdf5(name)
        except UserError:
            raise
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error

    def _unreadable(self, reason: object) -> UserError:
        return UserError(f"{self.path}: cannot be read as a MATLAB file ({shown(reason)}); save it again")

    def _open_hdf5(self) -> None:
        """MATLAB 7.3 is HDF5 with the dimensions in reverse; links to other files are not followed."""
        import h5py

        self._hdf5 = h5py.File(self.path, "r")
        if len(self._hdf5) > _MOST_OBJECTS:
            raise ValueError(f"it has more than {_MOST_OBJECTS:,} variables")
        for name in self._hdf5:
            if not isinstance(self._hdf5.get(name, getlink=True), h5py.HardLink):
                continue
            data = self._hdf5[name]
            own = isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual
            if own and data.shape is not None and data.dtype.kind in "iuf":
                self.shapes[name] = tuple(reversed(data.shape))

    def _from_hdf5(self, name: str) -> np.ndarray:
        data = self._hdf5[name]
        stored = int(data.id.get_storage_size())
        if math.prod(data.shape) > _DEFLATE_RATIO * stored:  # the rest would be made up of a fill value
            raise ValueError(f"{shown(name, 40)!r} claims more samples than the file can hold")
        check_claim(self.path, math.prod(data.shape), stored)
        self._check_chunks(data)
        return np.asarray(data[()]).T

    def _check_chunks(self, data: Any) -> None:
        """HDF5 expands a chunk whatever comes of it, so it is looked at before; large ones are few."""
        if data.chunks is None:
            return
        expected = math.prod(data.chunks) * data.dtype.itemsize
        check_claim(self.path, math.prod(data.chunks), int(data.id.get_storage_size()))
        filters = data.id.get_create_plist()
        kinds = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
        if not set(kinds) <= _KNOWN_FILTERS or len(set(kinds)) != len(kinds):
            raise ValueError(f"{shown(data.name, 40)!r} is compressed in a way that MATLAB does not use")
        for number in range(data.id.get_num_chunks() if _DEFLATE in kinds else 0):
            chunk = data.id.get_chunk_info(number)
            if chunk.size * _DEFLATE_RATIO > _CHUNK_UNCHECKED:
                _, raw = data.id.read_direct_chunk(chunk.chunk_offset)
                expander = zlib.decompressobj()
                left = expected + 64  # a checksum comes with it
                while left > 0 and not expander.eof and raw:
                    left -= len(expander.decompress(raw, min(left, 2**20)))
                    raw = expander.unconsumed_tail
                if left <= 0:
                    raise ValueError(f"a part of {shown(data.name, 40)!r} expands to more than it claims")
