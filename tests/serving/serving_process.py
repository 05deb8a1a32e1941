"""The command `serve` in a process of its own."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

_COMMAND = (sys.executable, "-m", "fairseq_signals_ext", "serve")
_SECONDS_TO_START = 120


class Served:
    """The running command.

    Attributes:
        address: that it printed, ends with /.
        process: it runs in.
        temporary: its folder for temporary files.
    """

    def __init__(self, process, temporary, log):
        self.process, self.temporary, self._log = process, temporary, log
        ready, _, _ = select.select([process.stdout], [], [], _SECONDS_TO_START)
        self.line = process.stdout.readline() if ready else ""
        assert self.line.startswith("http://"), f"{self.line}{self.log()}"
        self.address = self.line.split()[0]

    def log(self):
        return self._log.read_text()

    def end(self, number=signal.SIGTERM):
        """Exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def resident_mb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1000


@contextlib.contextmanager
def running(folder, *arguments):
    """The command in a folder that it may write to only through its temporary folder."""
    temporary, log = folder / "temporary", folder / "log.txt"
    temporary.mkdir()
    (folder / "home").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    with open(log, "w") as error:
        process = subprocess.Popen(
            [*_COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=error,
            text=True,
            env=environment,
            cwd=folder / "home",
        )
    try:
        yield Served(process, temporary, log)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def eventually(condition, seconds=20):
    """Whether something becomes true within some time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
