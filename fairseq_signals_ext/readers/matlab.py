"""The numeric matrices in a MATLAB file of version 4 to 7.3; nothing else in it is read."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Tuple, Type

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.facts import shown

_NUMERIC = {"double", "single"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_HIGHEST_RATIO = 1100  # deflate, with which MATLAB compresses, makes nothing smaller than 1/1032


class MatFile:
    """A MATLAB file, opened by `with`.

    Attributes:
        shapes: names and shapes (as MATLAB shows them) of its numeric arrays.
    """

    def __init__(self, path: Path, is_hdf5: bool) -> None:
        self.path = path
        self.shapes: Dict[str, Tuple[int, ...]] = {}
        self._hdf5: Any = None
        self._is_hdf5 = is_hdf5

    def __enter__(self) -> "MatFile":
        try:
            if self._is_hdf5:
                self._open_hdf5()
            else:
                self._list_variables()
        except ImportError:
            raise
        except Exception as error:  # both libraries raise whatever Python raises on damaged bytes
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
        if math.prod(self.shapes[name]) > _HIGHEST_RATIO * self._stored_bytes(name):
            raise self._unreadable(f"{name!r} claims more samples than the file can hold")
        try:
            array = self._from_hdf5(name) if self._is_hdf5 else self._from_scipy(name)
        except Exception as error:  # see __enter__
            raise self._unreadable(error) from error
        if array.dtype.kind not in "iuf":
            raise self._unreadable(f"{name!r} holds {array.dtype}, not real numbers")
        return array

    def _stored_bytes(self, name: str) -> int:
        """At most so many bytes of the file hold this array."""
        return int(self._hdf5[name].id.get_storage_size()) if self._is_hdf5 else self.path.stat().st_size

    def _unreadable(self, reason: object) -> UserError:
        return UserError(f"{self.path}: cannot be read as a MATLAB file ({shown(reason)}); save it again")

    def _list_variables(self) -> None:
        import scipy.io

        self.shapes = {name: shape for name, shape, kind in scipy.io.whosmat(str(self.path)) if kind in _NUMERIC}

    def _from_scipy(self, name: str) -> np.ndarray:
        import scipy.io

        return np.asarray(scipy.io.loadmat(str(self.path), variable_names=[name])[name])

    def _open_hdf5(self) -> None:
        """MATLAB 7.3 is HDF5 with the dimensions in reverse; links to other files are not followed."""
        import h5py

        self._hdf5 = h5py.File(self.path, "r")
        for name in self._hdf5:
            if not isinstance(self._hdf5.get(name, getlink=True), h5py.HardLink):
                continue
            data = self._hdf5[name]
            own = isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual
            if own and data.dtype.kind in "iuf":
                self.shapes[name] = tuple(reversed(data.shape))

    def _from_hdf5(self, name: str) -> np.ndarray:
        return np.asarray(self._hdf5[name][()]).T
