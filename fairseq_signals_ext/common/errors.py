"""What a user can fix: the one exception for it, what to install, and how both reach a terminal."""

import errno
import functools
import importlib.util
import os
import re
from typing import Any, Callable, Optional, Sequence, TypeVar

# which extra brings a package that is imported only where it is needed
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
# why a place cannot be written or read, and what to do
PLACE_HINTS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give another place, or correct its permissions"),
    **dict.fromkeys(NO_SPACE, "free some space, or give another place"),
    **dict.fromkeys((errno.EFBIG, errno.ENAMETOOLONG), "give another place"),
    errno.EEXIST: "give a folder",
    errno.ENOTDIR: "give another place",
    errno.EIO: "check the disk, or give another place",
}

# where the system's words are not about what the user sees
_PLAINER = {errno.EEXIST: "is a file, but a folder is needed", errno.ENOTDIR: "a part of this path is a file"}

# what is quoted in an exception, also with marks in it, or without an end; not the apostrophe within a word
_QUOTED = re.compile(r"""(?<!\w)b?(?:'(?:[^'\\]|\\.?)*(?:'|$)|"(?:[^"\\]|\\.?)*(?:"|$))""")

Function = TypeVar("Function", bound=Callable[..., Any])


class UserError(ValueError):
    """Bad input or settings. The message is one line: file, item, what is wrong, and what to do."""


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
        ecgs: how many the file contains.
    """

    def __init__(self, message: str, ecgs: int = 1):
        super().__init__(message)
        self.ecgs = ecgs


class MissingPackageError(UserError):
    """An optional package is needed; the message says how to install it."""


class PlaceError(OSError, UserError):
    """A file cannot be written where it was to be, which is not the fault of what would be in it.

    Attributes:
        errno, strerror, filename: as in any `OSError`.
    """

    @classmethod
    def of(cls, error: OSError) -> Optional["PlaceError"]:
        """The same for an error of the system; None if that has another reason."""
        if error.errno not in PLACE_HINTS or not (error.filename or error.errno in NO_SPACE):
            return None
        return cls(error.errno, os.strerror(error.errno), error.filename)

    def __str__(self) -> str:
        return self.with_hint(PLACE_HINTS.get(self.errno or 0, "give another place"))

    def with_hint(self, hint: str) -> str:
        """The message with another way out."""
        place = "" if self.filename is None else f"{_known(os.fsdecode(self.filename))}: "
        return f"{place}{_PLAINER.get(self.errno or 0, self.strerror)}; {hint}"


def _known(file: str) -> str:
    """What a user knows of a file: of those that are hidden while a command runs their folder."""
    folder, name = os.path.split(file)
    return (folder or os.curdir) if name.startswith(".") and name.endswith((".tmp", ".lock")) else file


def how_to_install(package: str, extras: Sequence[str] = ()) -> Optional[str]:
    """One line on what to install for a package that is missing; None if no extra of ours brings it.

    Args:
        package: as it is imported.
        extras: what else is needed; of these all packages that are missing are named, too.
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
    """What to type to install extras, with commas between them; this package is in no registry, see the README."""
    return f"pip install -e '.[{extras}]' in a clone, or pip install 'fairseq-signals-ext[{extras}] @ git+URL'"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def without_quotes(text: str) -> str:
    """What a library's error says, without what it quotes: that is of a file, maybe a person's name."""
    return _QUOTED.sub("...", text)


def first_line(error: BaseException, length: int = 160) -> str:
    """The first line of what a library says, or the kind of its error if that says nothing, at most so long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]


def _on_one_line(text: str) -> str:
    """A text without line breaks and what would act on a terminal: names of files may have any."""
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
