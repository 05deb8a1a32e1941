"""What a request may ask for, and what is said where it asks for too much."""

from dataclasses import dataclass

from fairseq_signals_ext.common.errors import UserError


class UploadError(UserError):
    """An upload that cannot be answered.

    Attributes:
        status: HTTP's number for it.
        missing: the field that says what its files do not, "sample_rate", "leads" or "unit"; empty: none would help.
    """

    def __init__(self, message: str, status: int = 422, missing: str = ""):
        super().__init__(message)
        self.status, self.missing = status, missing


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Attributes:
        upload_bytes: of a request as it is sent.
        files: in a request; one recording of WFDB may have many.
        hours: a longer recording is refused.
        report_hours: a report of a longer recording is refused, as its map is computed for all of it.
        resampled: values of all leads together at the model's sample rate; each takes 8 bytes while it is worked on.
        at_once: requests in work; the others wait after they have arrived.
        upload_seconds: for a request to arrive.
        idle_seconds: without a byte, or with less than `slowest` per second, after which a request is broken off.
        slowest: bytes per second.
        arriving: requests that may be arriving, or wait for their turn; of the others nothing is read.
        small_bytes: of a request; more is read of `at_once` requests only, which bounds memory and disk.
        readers: processes that read, with `quick_seconds` and `quick_bytes` of memory for each upload. Seconds are of
            the processor, so that others that use it change nothing; by the clock there is a multiple of them.
        short_seconds: a longer recording, and one whose reading takes more than that, is taken by `slow_at_once`
            places of their own, so that the others do not wait for it.
        slow_waiting: uploads that may wait for these places.
        read_seconds, read_bytes: time and memory for reading there; what takes more is refused.
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
        """Samples of all leads together; compressed formats can claim far more than they have bytes."""
        return 2 * self.upload_bytes
