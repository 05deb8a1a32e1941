"""Packages as other people install them, and the real command beside them."""

import os
import subprocess
import sys
from pathlib import Path


def installed(folder: Path, package: str, module: str, **entry_points: str) -> Path:
    """A folder for PYTHONPATH with a distribution of one module, as pip leaves it.

    Args:
        entry_points: `formats` or `sources` -> `NAME = MODULE:OBJECT`.
    """
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[fairseq_signals_ext.{seam}]\n{point}\n" for seam, point in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    (folder / f"{package}.py").write_text(module)
    return folder


def command(*arguments, beside=()):
    """`fairseq-signals-ext ...` in a process of its own, with the folders of packages."""
    path = os.pathsep.join([*map(str, beside), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [Path(sys.executable).parent / "fairseq-signals-ext", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
