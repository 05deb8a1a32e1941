"""Commands and code of the README and of docs/, run as a reader types them, in a folder like the reader's."""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
from made_up import RATE, made_up_counts
from made_up_wfdb import write_wfdb
from running import SMALL

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ECGS = 20
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.M | re.S
)
_HUB = "hf:wanglab/ecg-fm/"


def blocks(page):
    """Language and code of each block of a page that is to be run."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(one["language"], one["code"]) for one in found if one["reason"] is None]


class Reader:
    """A folder in which somebody types what a page shows: a clone's folders, ECGs, and a smaller `fairseq-hydra-train`.

    Args:
        folder: which is made, unless it is there.
    """

    def __init__(self, folder):
        self.folder = folder
        if folder.exists():
            return
        folder.mkdir()
        for name in ("manifests", "examples"):
            (folder / name).symlink_to(ROOT / name)
        write_ecgs(folder / "path" / "to" / "ecgs")
        lines = [f"{record_name(number)},{number % 2}" for number in range(ECGS)]
        (folder / "outcomes.csv").write_text("\n".join(["record_id,death_30d", *lines]) + "\n")
        _write_small_trainer(folder / "bin" / "fairseq-hydra-train")

    def follow(self, page, before=""):
        """Run all blocks of a page in order; gives what each printed, and fails if one failed.

        Args:
            before: Python that precedes each Python block.
        """
        return [self.run(language, code, before) for language, code in blocks(page)]

    def run(self, language, code, before=""):
        code = code.replace(_HUB, "")  # the files are here
        command = (
            ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", before + code]
        )
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PWD": str(self.folder)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=540
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        if language == "bash":
            self._check_outputs(code)
        return done.stdout

    def _check_outputs(self, code):
        """What a command was told to write is there."""
        named = re.findall(r"--out (\S+)|hydra\.run\.dir=(\S+)", code)
        for name in filter(None, (one for pair in named for one in pair)):
            path = self.folder / name
            assert path.is_file() or any(path.iterdir()), name


def record_name(number):
    """Of the reader's ECGs."""
    return f"rec{number:02d}" if number else "one"


def write_ecgs(folder):
    """WFDB records with codes of two rhythms."""
    for number in range(ECGS):
        counts = made_up_counts(np.random.default_rng(number), 10 * RATE)
        code = (426177001, 426783006)[number % 2]
        write_wfdb(folder / record_name(number), counts, comments=[f"Dx: {code}"])


def _write_small_trainer(path):
    """The same command with options of a small model and a short run behind what the reader types."""
    fine_tuned = [option for option in SMALL if not option.startswith("++model.")]
    options = [
        shlex.join([*small, "++common.log_interval=1"])
        for small in ([*fine_tuned, "++optimization.max_epoch=1"], [*SMALL, "++optimization.max_update=2"])
    ]
    path.parent.mkdir()
    path.write_text(
        "#!/usr/bin/env bash\n"
        f"real={shlex.quote(str(Path(sys.executable).parent / path.name))}\n"
        f'case "$*" in *fine_tuning*) exec "$real" "$@" {options[0]} ;; *) exec "$real" "$@" {options[1]} ;; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
