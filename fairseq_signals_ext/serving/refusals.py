"""What is said, in one line and with HTTP's number for it, where an upload has no answer."""

import errno
import re
from typing import Optional

from fairseq_signals_ext.errors import MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.serving.limits import UploadError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TOO_LITTLE = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
# torch and onnxruntime have no error of one kind for it
_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|bad_alloc")


def refusal_of(error: Exception) -> Optional[UploadError]:
    """The refusal that an error stands for; None if it is a mistake of ours."""
    if isinstance(error, UserError):
        return UploadError(str(error), 501 if isinstance(error, MissingPackageError) else getattr(error, "status", 422))
    if isinstance(error, ModuleNotFoundError):
        hint = how_to_install(error.name or "")
        return None if hint is None else UploadError(hint, 501)
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        hint = "make some in its folder of temporary files"
        return UploadError(f"upload: the service has no room on its disk; {hint}", 507)
    is_runtime = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    if isinstance(error, MemoryError) or is_runtime or number in _TOO_LITTLE:
        return UploadError("upload: the service has too little memory for it now; send it later, or a part of it", 503)
    return None
