"""The command `serve` in a process of its own."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_COMMAND = (sys.executable, "-m", "fairseq_signals_ext", "serve")
# its readers go wrong with some names of files
FAILING = (sys.executable, str(Path(__file__).with_name("serve_failing.py")))
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
        return _resident_mb(self.process.pid)

    def children(self):
        """Process numbers of those that it started."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(number) for task in tasks for number in task.read_text().split()]

    def children_mb(self):
        return sum(_resident_mb(number) for number in self.children())


def _resident_mb(number):
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0) / 1000


def is_running(number):
    """Whether there is such a process that is no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def running(folder, *arguments, command=_COMMAND, temporary=None):
    """The command in a folder that it may write to only through its temporary folder.

    Args:
        command: that is run with the arguments.
        temporary: None: one of its own.
    """
    temporary, log = temporary or folder / "temporary", folder / "log.txt"
    temporary.mkdir(exist_ok=True)
    (folder / "home").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    with open(log, "w") as error:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
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
