"""From the files of an upload to a recording, without looking at any other file.

This runs in a process of its own, see `readers`, so it needs what reading needs and no more.
"""

from pathlib import Path
from typing import NamedTuple, Optional, Set

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.formats import format_of, our_formats
from fairseq_signals_ext.readers.wfdb_claims import read_header
from fairseq_signals_ext.readers.wfdb_header import has_segments
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.upload import Upload

# that readers import when they need them, and a process in advance
MODULES = tuple(dict.fromkeys(module for one in our_formats() for module in one.imports))
_ONE = "send one recording at a time"


class ReadUpload(NamedTuple):
    """A recording that was uploaded.

    Attributes:
        name: the sender's of its file, of several that which stands for all.
        recording: read from it.
    """

    name: str
    recording: Recording


def read_short_upload(upload: Upload, limits: Limits, sample_rate: float) -> Optional[ReadUpload]:
    """As `read_upload`; None if the recording lasts longer than `limits.short_seconds`."""
    found = read_upload(upload, limits, sample_rate)
    is_short = found.recording.samples <= limits.short_seconds * found.recording.sample_rate
    return found if is_short else None


def read_upload(upload: Upload, limits: Limits, sample_rate: float) -> ReadUpload:
    """Read the recording.

    Args:
        sample_rate: Hz, of the model.

    Raises:
        UploadError: the files are not one recording, of no supported kind, name files that were not sent, or hold or
            claim more than the limits.
        UserError: see `read_ecg`.
    """
    main = main_file(upload)
    path = upload.folder / main
    if path.suffix == ".hea":
        _check_headers(upload, path, limits)
    else:
        _check_kind(path, limits)
    recording = read_ecg(path, sample_rate=upload.sample_rate, leads=upload.leads, unit=upload.unit, number=1)
    if recording.ecgs > 1:
        raise UploadError(f"{path}: contains {recording.ecgs} ECGs; send each as a file of its own", 422)
    seconds = recording.samples / recording.sample_rate
    if seconds > 3600 * limits.hours:
        raise UploadError(f"{path}: lasts {seconds / 3600:.1f} h, more than {limits.hours:g} h; send a part of it", 422)
    if seconds * sample_rate * len(recording.leads) > limits.resampled:
        told = f"lasts {seconds / 3600:.1f} h, too long for the memory of its {len(recording.leads)} leads"
        raise UploadError(f"{path}: {told} at the model's {sample_rate:g} Hz; send a part of it", 422)
    return ReadUpload(upload.names[main], recording)


def main_file(upload: Upload) -> str:
    """The file that stands for all; of several headers that of the record that the others are segments of.

    Raises:
        UploadError: there is none, or there are several.
    """
    names = list(upload.names)
    if len(names) == 1:
        return names[0]
    headers = [name for name in names if name.endswith(".hea")]
    if not headers:
        raise UploadError(f"upload: {len(names)} files, but no WFDB header (.hea) among them; {_ONE}", 400)
    if len(headers) > 1:
        headers = [name for name in headers if has_segments((upload.folder / name).read_bytes())]
    if len(headers) != 1:
        raise UploadError(f"upload: has the headers of several recordings; {_ONE}", 400)
    return headers[0]


def _check_headers(upload: Upload, main: Path, limits: Limits) -> None:
    """See that all files that headers name were sent, so that no other is opened, and that all that were are needed."""
    needed: Set[str] = set()
    for path in [upload.folder / name for name in upload.names if name.endswith(".hea")]:
        header = read_header(path)
        if (header.frames or 0) * header.width > limits.samples:
            raise _too_many_samples(path, limits)
        for name in header.files:
            if name not in upload.names:
                hint = "send it together with the header, under this name"
                raise UploadError(f"{path}: its file {shown(name, 60)!r} was not sent; {hint}", 422)
            needed.add(name)
    for name in upload.names:
        if name not in needed and Path(name).stem != main.stem:
            raise UploadError(f"{upload.folder / name}: does not belong to {main}; {_ONE}", 400)


def _check_kind(path: Path, limits: Limits) -> None:
    try:
        found = format_of(path)
    except UserError as error:
        raise UploadError(str(error), 415 if path.stat().st_size else 422) from None
    if found.largest is not None and found.largest(path) > limits.samples:
        raise _too_many_samples(path, limits)


def _too_many_samples(path: Path, limits: Limits) -> UploadError:
    return UploadError(f"{path}: claims more than {limits.samples:.2g} samples, the limit here; send a part of it", 413)
