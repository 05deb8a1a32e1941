"""Errors that a user can fix, hints on packages to install, and their output on a terminal."""

import errno
import functools
import importlib.util
import os
import re
from typing import Any, Callable, Optional, Sequence, TypeVar

# optional package: the extra that installs it
_EXTRAS = {
    "formats": (
        *("defusedxml", "ecgdatakit", "filelock", "h5py", "iterstrat", "joblib", "loky", "pandas", "pyarrow"),
        *("pydicom", "scipy", "sklearn", "soundfile", "tqdm", "xxhash", "yaml"),
    ),
    "download": ("wfdb",),
    "dask": ("dask", "distributed"),
    "ray": ("ray",),
    "report": ("jinja2", "markupsafe", "matplotlib"),
    "train": ("fairseq", "safetensors", "torch"),
    "onnx": ("filelock", "onnxruntime"),
    "export": ("onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
    "embed": ("umap",),
    "explain": ("captum", "neurokit2"),
    "serve": ("fastapi", "python_multipart", "starlette", "uvicorn"),
}

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# error number: why a file cannot be written or read, with a hint
PLACE_HINTS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give another place, or correct its permissions"),
    **dict.fromkeys(NO_SPACE, "free some space, or give another place"),
    **dict.fromkeys((errno.EFBIG, errno.ENAMETOOLONG), "give another place"),
    errno.EEXIST: "give a folder",
    errno.ENOTDIR: "give another place",
    errno.EIO: "check the disk, or give another place",
}

# errors for which the system's message would be misleading
_PLAINER = {errno.EEXIST: "is a file", errno.ENOTDIR: "a part of this path is a file"}

# quotations in an exception, also with quotes inside or without an end; not the apostrophe within a word
_QUOTED = re.compile(r"""(?<!\w)b?(?:'(?:[^'\\]|\\.?)*(?:'|$)|"(?:[^"\\]|\\.?)*(?:"|$))""")

Function = TypeVar("Function", bound=Callable[..., Any])


class UserError(ValueError):
    """Bad input or settings. The message is one line: file, item, problem, and hint."""


class MissingMetadataError(UserError):
    """Metadata that is needed to read a file is missing from it.

    Attributes:
        argument: the argument of `read_ecg` that gives it.
    """

    def __init__(self, message: str, argument: str = ""):
        super().__init__(message)
        self.argument = argument


class OneOfSeveralError(UserError):
    """One of the ECGs of a file cannot be used; the others may.

    Attributes:
        ecgs: number of ECGs in the file.
    """

    def __init__(self, message: str, ecgs: int = 1):
        super().__init__(message)
        self.ecgs = ecgs


class MissingPackageError(UserError):
    """An optional package is needed; the message contains the command to install it."""


class PlaceError(OSError, UserError):
    """A file cannot be written because of its place, such as a full disk, not because of its content.

    Attributes:
        errno, strerror, filename: as in any `OSError`.
    """

    @classmethod
    def of(cls, error: OSError) -> Optional["PlaceError"]:
        """Convert an error of the system; None if it has another reason."""
        if error.errno not in PLACE_HINTS or not (error.filename or error.errno in NO_SPACE):
            return None
        return cls(error.errno, os.strerror(error.errno), error.filename)

    def __str__(self) -> str:
        return self.with_hint(PLACE_HINTS.get(self.errno or 0, "give another place"))

    def with_hint(self, hint: str) -> str:
        """Return the error with another hint."""
        place = "" if self.filename is None else f"{_known(os.fsdecode(self.filename))}: "
        return f"{place}{_PLAINER.get(self.errno or 0, self.strerror)}; {hint}"


def _known(file: str) -> str:
    """Return a path that the user knows: the folder, for hidden files that exist only while a command runs."""
    folder, name = os.path.split(file)
    return (folder or os.curdir) if name.startswith(".") and name.endswith((".tmp", ".lock")) else file


def how_to_install(package: str, extras: Sequence[str] = ()) -> Optional[str]:
    """Return a hint on what to install for a missing package; None if none of our extras installs it.

    Args:
        package: its name for import.
        extras: further needed extras; their missing packages are named as well.
    """
    its_own = next((extra for extra, packages in _EXTRAS.items() if package.split(".")[0] in packages), None)
    if its_own is None:
        return None
    lacking = {extra: [name for name in _EXTRAS[extra] if not _is_installed(name)] for extra in extras}
    lacking[its_own] = list(dict.fromkeys([package, *lacking.get(its_own, ())]))
    *others, last = dict.fromkeys(name for names in lacking.values() for name in sorted(names))
    named = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"{named} not installed: {install_command(','.join(filter(lacking.get, lacking)))}"


def install_command(extras: str) -> str:
    """Return the command to install extras (separated by commas); this package is in no registry, see the README."""
    return f"pip install -e '.[{extras}]' in a clone, or pip install 'fairseq-signals-ext[{extras}] @ git+URL'"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def without_quotes(text: str) -> str:
    """Return the message of a library's error without quotations, which may contain personal data from a file."""
    return _QUOTED.sub("...", text)


def first_line(error: BaseException, length: int = 160) -> str:
    """Return the shortened first line of a library's error, or the type of the error if its message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]


def _on_one_line(text: str) -> str:
    """Return a text without line breaks and control characters, which names of files may contain."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def exits_on_user_error(function: Function) -> Function:
    """Turn a `UserError` of an entry point, or a missing optional package, into one line on stderr and exit status 1.

    fairseq and hydra print a traceback for every exception; only `SystemExit` passes them unchanged.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise SystemExit(f"error: {_on_one_line(str(error))}") from error
        except ModuleNotFoundError as error:
            hint = how_to_install(error.name or "")
            if hint is None:
                raise
            raise SystemExit(f"error: {hint}") from error

    return wrapped  # type: ignore[return-value]
