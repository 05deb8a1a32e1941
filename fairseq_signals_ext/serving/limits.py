"""Limits of the service, and the error for uploads beyond them."""

from dataclasses import dataclass

from fairseq_signals_ext.common.errors import UserError


class UploadError(UserError):
    """An upload that cannot be answered.

    Attributes:
        status: HTTP status.
        missing: the field for metadata missing from the files, "sample_rate", "leads" or "unit"; empty: none.
    """

    def __init__(self, message: str, status: int = 422, missing: str = ""):
        super().__init__(message)
        self.status, self.missing = status, missing


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Attributes:
        upload_bytes: size of a request as it is sent.
        files: in a request; one WFDB recording can have many.
        hours: a longer recording is refused.
        report_hours: a report on a longer recording is refused, because its map is computed for all of it.
        resampled: values of all leads together at the model's sample rate; each takes 8 bytes during the work.
        at_once: requests in work; the others wait after they have arrived.
        upload_seconds: for a request to arrive.
        idle_seconds: a request is ended after this time without data, or with less than `slowest`.
        slowest: bytes per second.
        arriving: requests that may be arriving or waiting for their turn; nothing of further ones is read.
        small_bytes: first part of a request; more is read only for `at_once` requests, which limits memory and disk.
        readers: processes that read, with `quick_seconds` and `quick_bytes` of memory per upload. Seconds are processor
            time, so other processes do not matter; the limit by the clock is a multiple of them.
        short_seconds: longer recordings, and uploads that exceed the quick limits, use `slow_at_once` separate places,
            so that the others do not wait for them.
        slow_waiting: uploads that may wait for these places.
        read_seconds, read_bytes: time and memory for reading there; an upload that needs more is refused.
    """

    upload_bytes: int = 64_000_000
    files: int = 32
    hours: float = 24.0
    report_hours: float = 2.0
    resampled: int = 2**28
    at_once: int = 8
    upload_seconds: float = 120.0
    idle_seconds: float = 10.0
    slowest: float = 1000.0
    arriving: int = 256
    small_bytes: int = 1_000_000
    readers: int = 6
    quick_seconds: float = 0.3
    quick_bytes: int = 500_000_000
    short_seconds: float = 60.0
    slow_at_once: int = 2
    slow_waiting: int = 16
    read_seconds: float = 15.0
    read_bytes: int = 2_000_000_000

    @property
    def samples(self) -> int:
        """Samples of all leads together; a compressed file can claim many more samples than it has bytes."""
        return 2 * self.upload_bytes
