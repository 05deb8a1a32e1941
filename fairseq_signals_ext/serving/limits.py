"""What a request may ask for, and what is said where it asks for too much."""

from dataclasses import dataclass

from fairseq_signals_ext.errors import UserError


class UploadError(UserError):
    """An upload that cannot be answered.

    Attributes:
        status: HTTP's number for it.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Attributes:
        upload_bytes: of a request as it is sent.
        files: in a request; one recording of WFDB may have many.
        hours: a longer recording would keep all others waiting.
        at_once: requests in work; the others wait before anything of them is read.
        upload_seconds: for a request to arrive, from when its turn comes.
    """

    upload_bytes: int = 64_000_000
    files: int = 32
    hours: float = 24.0
    at_once: int = 8
    upload_seconds: float = 120.0

    @property
    def samples(self) -> int:
        """Samples of all leads together; compressed formats can claim far more than they have bytes."""
        return 2 * self.upload_bytes
