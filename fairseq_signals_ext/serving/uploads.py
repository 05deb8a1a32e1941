"""Receive the files of one recording: within limits, with safe names, in a separate folder."""

import math
import re
import shutil
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, MutableMapping, Optional, Sequence, Tuple

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.upload import Upload

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Enlarge = Callable[[], Awaitable[Any]]
FIELDS = ("sample_rate", "leads", "unit")
ANONYMOUS = "anonymous"
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_FIELD_BYTES = 10_000
_LONGEST_NAME = 100
_HOW = "send files as multipart/form-data, such as curl -F file=@ecg.dcm"
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")


async def receive_upload(
    request: Request, folder: Path, limits: Limits, fields: Sequence[str] = FIELDS, enlarge: Optional[_Enlarge] = None
) -> Upload:
    """Receive a request of the type multipart/form-data into a folder.

    Args:
        fields: allowed fields beside files, of `FIELDS` and `ANONYMOUS`.
        enlarge: awaited before more than `limits.small_bytes` are read.

    Raises:
        UploadError: it is too large, too slow or incomplete, has no file or unknown fields.
        HTTPException: it is not multipart/form-data, or has too many files; raised by starlette.
        OSError: the disk is full.
    """
    _check_type(request.headers.get("content-type", ""))
    try:
        receive = request.receive if enlarge is None else _enlarging(request.receive, limits.small_bytes, enlarge)
        limited = Request(request.scope, receive)
        form = await limited.form(max_files=limits.files, max_fields=len(fields), max_part_size=_FIELD_BYTES)
    except ClientDisconnect:
        raise UploadError("upload: was broken off; send it again", 400) from None
    try:
        metadata = _metadata(form, fields)
        names = await run_in_threadpool(_store, _files(form), folder)
    finally:
        await form.close()
    return Upload(folder, names, **metadata)


def _check_type(content_type: str) -> None:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UploadError(f"upload: is of another type; {_HOW}", 415)
    # some of Python's encodings are slow, or raise unusual errors
    if options.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise UploadError("upload: its names are in another charset; send them in UTF-8", 415)


def _enlarging(receive: _Receive, small: int, enlarge: _Enlarge) -> _Receive:
    received, is_large = 0, False

    async def enlarging() -> MutableMapping[str, Any]:
        nonlocal received, is_large
        if received > small and not is_large:
            is_large = True
            await enlarge()
        message = await receive()
        received += len(message.get("body", b""))
        return message

    return enlarging


def _metadata(form: FormData, fields: Sequence[str]) -> Dict[str, Any]:
    """Metadata from the text fields; empty fields are ignored."""
    texts = {name: value.strip() for name, value in form.multi_items() if isinstance(value, str)}
    unknown = [name for name in texts if name not in fields]
    if unknown:
        known = f"known are {', '.join(fields)}; {_HOW}"
        raise UploadError(f"upload: field {shown(unknown[0], 40)!r} is neither a file nor known; {known}", 400)
    given = {name: value for name, value in texts.items() if value}
    metadata: Dict[str, Any] = {"unit": given.get("unit")}
    if "sample_rate" in given:
        metadata["sample_rate"] = _rate(given["sample_rate"])
    if "leads" in given:
        try:
            metadata["leads"] = [LEADS[position] for position in parse_leads(given["leads"])]
        except UserError as error:
            raise UploadError(f"upload: leads: {shown(error)}", 400) from None
    if ANONYMOUS in given:
        metadata["anonymous"] = _is_yes(given[ANONYMOUS])
    return metadata


def _is_yes(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise UploadError(f"upload: {ANONYMOUS} {shown(text, 40)!r}: give 1 or 0", 400)
    return text.lower() in _YES


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise UploadError(f"upload: sample_rate {shown(text, 40)!r} is not a rate; give a number in Hz", 400)
    return rate


def _files(form: FormData) -> List[Tuple[str, UploadFile]]:
    files = [(file.filename or "", file) for _, file in form.multi_items() if isinstance(file, UploadFile)]
    if not files:
        raise UploadError(f"upload: has no file; {_HOW}", 400)
    return files


def _store(files: List[Tuple[str, UploadFile]], folder: Path) -> Dict[str, str]:
    names: Dict[str, str] = {}
    for sent, file in files:
        name = safe_name(sent)
        try:
            with open(folder / name, "xb") as stored:
                shutil.copyfileobj(file.file, stored)
        except FileExistsError:
            raise UploadError(f"{name}: two files of the upload have this name; send each once", 400) from None
        names[name] = shown(_without_folders(sent), _LONGEST_NAME) or name
    return names


def safe_name(sent: str) -> str:
    """Make a safe file name from the sender's.

    It has no folders, only ASCII letters and digits, `-`, `_` and `.`, is not hidden, and has at most 100 characters,
    with the suffix kept.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", _without_folders(sent)).lstrip(".")
    path = Path(name or "file")
    suffix = path.suffix[:20]
    return path.stem[: _LONGEST_NAME - len(suffix)] + suffix


def _without_folders(sent: str) -> str:
    return re.split(r"[/\\]", sent)[-1]
