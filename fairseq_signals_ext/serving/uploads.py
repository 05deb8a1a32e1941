"""Receive the files of one recording: within limits, under safe names, in a folder of their own."""

import asyncio
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Mapping, MutableMapping, Optional, Sequence, Tuple

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS, parse_leads
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.serving.limits import Limits, UploadError

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
FIELDS = ("sample_rate", "leads", "unit")
ANONYMOUS = "anonymous"
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_FIELD_BYTES = 10_000
_LONGEST_NAME = 100
_HOW = "send files as multipart/form-data, such as curl -F file=@ecg.dcm"
# of an upload that is too large so many times its limit is read and thrown away: a client that is still sending does
# not read the answer
_DRAINED = 3


@dataclass(frozen=True)
class Upload:
    """The files of one recording, and what is said of files that do not say it themselves.

    Attributes:
        folder: holds them.
        names: name in the folder -> name that the sender knows, without folders.
        sample_rate, leads, unit: as `readers.read_ecg` takes them.
        anonymous: whether nothing of the patient may be said.
    """

    folder: Path
    names: Mapping[str, str]
    sample_rate: Optional[float] = None
    leads: Optional[List[str]] = None
    unit: Optional[str] = None
    anonymous: bool = False

    def in_senders_words(self, message: str) -> str:
        """A message with the sender's names of the files, and nothing of where they are."""
        for name, sent in self.names.items():
            message = message.replace(str(self.folder / name), sent)
        return message.replace(f"{self.folder}/", "").replace(str(self.folder), "upload")


async def receive_upload(request: Request, folder: Path, limits: Limits, fields: Sequence[str] = FIELDS) -> Upload:
    """Receive a request of the type multipart/form-data into a folder.

    Args:
        fields: that it may have beside files, of `FIELDS` and `ANONYMOUS`.

    Raises:
        UploadError: it is too large or too slow, is broken off, has no file or unknown fields.
        HTTPException: it is no multipart/form-data, or has too many files; by starlette.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise UploadError(f"upload: is of another type; {_HOW}", 415)
    try:
        form = await asyncio.wait_for(_parse(request, limits, len(fields)), limits.upload_seconds)
    except asyncio.TimeoutError:
        raise UploadError(f"upload: took more than {limits.upload_seconds:g} s; send it again", 408) from None
    except ClientDisconnect:
        raise UploadError("upload: was broken off; send it again", 400) from None
    try:
        said = _said(form, fields)
        names = await run_in_threadpool(_store, _files(form), folder)
    finally:
        await form.close()
    return Upload(folder, names, **said)


async def _parse(request: Request, limits: Limits, most_fields: int) -> FormData:
    announced = request.headers.get("content-length", "")
    receive = _limited(request.receive, limits.upload_bytes, int(announced) if announced.isdigit() else 0)
    limited = Request(request.scope, receive)
    return await limited.form(max_files=limits.files, max_fields=most_fields, max_part_size=_FIELD_BYTES)


def _limited(receive: _Receive, limit: int, announced: int) -> _Receive:
    """The same, ending with an `UploadError` as soon as more than `limit` bytes have come or are announced."""
    received = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if max(received, announced) > limit:
            await _drain(receive, message, _DRAINED * limit)
            raise UploadError(f"upload: has more than {limit / 1e6:g} MB, the limit here; send a shorter ECG", 413)
        return message

    return limited


async def _drain(receive: _Receive, message: MutableMapping[str, Any], most: int) -> None:
    while most > 0 and message.get("more_body", False):
        message = await receive()
        most -= len(message.get("body", b""))


def _said(form: FormData, fields: Sequence[str]) -> Dict[str, Any]:
    """What the text fields say of the files; an empty one says nothing."""
    texts = {name: value.strip() for name, value in form.multi_items() if isinstance(value, str)}
    unknown = [name for name in texts if name not in fields]
    if unknown:
        known = f"known are {', '.join(fields)}; {_HOW}"
        raise UploadError(f"upload: field {shown(unknown[0], 40)!r} is no file and not known; {known}", 400)
    given = {name: value for name, value in texts.items() if value}
    said: Dict[str, Any] = {"unit": given.get("unit")}
    if "sample_rate" in given:
        said["sample_rate"] = _rate(given["sample_rate"])
    if "leads" in given:
        try:
            said["leads"] = [LEADS[position] for position in parse_leads(given["leads"])]
        except UserError as error:
            raise UploadError(f"upload: leads: {shown(error)}", 400) from None
    if ANONYMOUS in given:
        said["anonymous"] = _is_yes(given[ANONYMOUS])
    return said


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
        raise UploadError(f"upload: sample_rate {shown(text, 40)!r} is no rate; give a number in Hz", 400)
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
    """A name for a file in a folder of ours from the one that a stranger gave it.

    No folders, letters and digits of ASCII, `-`, `_` and `.`, not hidden, at most 100 characters with the suffix kept.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", _without_folders(sent)).lstrip(".")
    path = Path(name or "file")
    suffix = path.suffix[:20]
    return path.stem[: _LONGEST_NAME - len(suffix)] + suffix


def _without_folders(sent: str) -> str:
    return re.split(r"[/\\]", sent)[-1]
