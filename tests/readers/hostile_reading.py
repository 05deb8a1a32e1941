"""Read hostile files, each in its own process, and print the results, one line of JSON each.

python tests/readers/hostile_reading.py [name ...]
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import hostile_parts  # noqa: F401 - more of them
from fuzz_seeds import Seed
from hostile import MAKERS


def _read(seed: Seed, folder: Path) -> str:
    """Return the result of reading: `"read"`, a message, or a forbidden exception."""
    from fairseq_signals_ext.common.errors import UserError
    from fairseq_signals_ext.readers import read_ecg

    for name, content in seed.files.items():
        (folder / name).write_bytes(content)
    try:
        read_ecg(folder / seed.main, **seed.keywords)
    except UserError as error:
        return str(error).replace(str(folder), "FOLDER")
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        return f"{type(error).__name__}: {error}"
    return "read"


def _in_a_process(name: str) -> None:
    """Read one sample in a child process with all libraries imported, and print the result."""
    with tempfile.TemporaryDirectory() as folder:
        seed = MAKERS[name]()
        child = os.fork()
        if not child:
            before = time.perf_counter()
            result = _read(seed, Path(folder))
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps([name, result, time.perf_counter() - before, megabytes]), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps([name, f"ended with {status}", 0.0, 0.0]), flush=True)


def main() -> None:
    """Read each sample, or those named."""
    import ecgdatakit  # noqa: F401 - imported once, not by each child
    import h5py  # noqa: F401
    import pydicom  # noqa: F401
    import wfdb  # noqa: F401

    for name in sys.argv[1:] or MAKERS:
        _in_a_process(name)


if __name__ == "__main__":
    main()
