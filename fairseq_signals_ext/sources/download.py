"""Download open collections from PhysioNet with `wfdb`; files that exist already are not downloaded again.

The address is set by `wfdb.set_db_index_url`, so that a mirror can be used.
"""

import contextlib
import functools
import posixpath
import re
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.sources import find_kind

# as in wfdb, in order not to overload the server
_CONNECTIONS = 2
_TRIES = 3
# allowed part of a path, so that nothing is written outside the folder
_PART = re.compile(r"(?!\.+$)[\w.+-]+", re.ASCII)
_DEEPEST = 10


def download(kind: str, folder: Path, rate: float = 500.0) -> None:
    """Download the missing files of a collection to a folder.

    A file with the same size as on the server is kept. Other files are downloaded, and appear complete or not at all.

    Args:
        kind: name of a kind of source with a home on PhysioNet.
        folder: it is created if necessary.
        rate: wanted rate in Hz, for collections with several rates.

    Raises:
        UserError: the kind is not on PhysioNet, the server cannot be reached, refuses a file or does not have it, its
            lists name files outside the folder, or a file cannot be written.
    """
    found = find_kind(kind)
    database = found.database
    if database is None:
        raise UserError(f"{kind}: cannot be downloaded from here; {found.where}")
    with _named_errors(kind, database.name, Path(folder)):
        records = [record for record in _records(database.name) if database.is_wanted(record, rate)]
        files = [*database.tables, *(record + suffix for record in records for suffix in database.suffixes)]
        _fetch_all(database.name, list(dict.fromkeys(files)), Path(folder))


def _records(database: str, below: str = "") -> Iterator[str]:
    """Return the names of all records below a folder of a database; a list may name folders with further lists."""
    from wfdb.io.download import get_record_list

    for line in _with_retries(get_record_list, posixpath.join(database, below)):
        name = below + line.strip()
        if not line.strip():
            continue
        parts = name.rstrip("/").split("/")
        if not all(map(_PART.fullmatch, parts)) or len(parts) > _DEEPEST:
            raise UserError(
                f"{database}: its list of records has {name[:200]!r}, which is not a file below it; check it"
            )
        if name.endswith("/"):
            yield from _records(database, name)
        else:
            yield name


def _fetch_all(database: str, files: Sequence[str], folder: Path) -> None:
    from multiprocessing.pool import ThreadPool

    pool = ThreadPool(_CONNECTIONS)
    try:
        fetched = pool.imap_unordered(functools.partial(_fetch, database, folder), files)
        for _ in Progress("download", len(files), "file").each(fetched):
            pass
    finally:
        # running downloads are completed, so that no partial file is left
        pool.terminate()
        pool.join()


def _fetch(database: str, folder: Path, file: str) -> None:
    # wfdb's dl_pn_file would append to a short file, which damages it if the server sends it from its beginning
    from wfdb.io.download import _remote_file_size, config, dl_full_file

    url, path = posixpath.join(config.db_index_url, database, file), folder / file
    if path.is_file() and path.stat().st_size == _with_retries(_remote_file_size, url):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        _with_retries(dl_full_file, url, str(temporary))


def _with_retries(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, up to three times if network or server fail."""
    for attempt in range(1, _TRIES):
        try:
            return function(*arguments)
        except OSError as error:
            if not _may_be_temporary(error):
                raise
            time.sleep(attempt)
    return function(*arguments)


def _may_be_temporary(error: OSError) -> bool:
    """Return whether an error of network or server may be temporary."""
    from requests import RequestException

    status = getattr(error, "status_code", None) or 0
    return isinstance(error, RequestException) or status == 429 or status >= 500


@contextlib.contextmanager
def _named_errors(kind: str, database: str, folder: Path) -> Iterator[None]:
    """Turn errors into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{kind}: {_reason(error, database, folder)}") from error
    except ValueError as error:
        raise UserError(f"{kind}: no list of records ({shown(error)}); see {_home(database)}") from error


def _reason(error: OSError, database: str, folder: Path) -> str:
    from requests import RequestException

    if isinstance(error, RequestException):
        address = getattr(error.request, "url", database)
        problem = f"{address} cannot be reached ({type(error).__name__})"
        return f"{problem}; check the network and repeat the command to continue"
    url, status = getattr(error, "url", None), getattr(error, "status_code", None)
    if url is None:
        return f"{error.filename or folder}: {error.strerror or error}; fix it, then repeat the command to continue"
    if status in (401, 403):
        return f"{url} is refused ({status}); log in and agree to the terms at {_home(database)}, and fetch it there"
    if status == 404:
        return f"{url} does not exist; see {_home(database)} for what there is"
    return f"{shown(error)}; repeat the command later to continue"


def _home(database: str) -> str:
    return f"https://physionet.org/content/{database}/"
