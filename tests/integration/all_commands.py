"""Run every command that writes in this process and its locale: `all_commands.py WORLD OUT`; a line on each.

The libraries that these use get the locale's decimal comma and rules for letters, too.
"""

import contextlib
import io
import locale
import sys
import traceback
from pathlib import Path

from disturbing import COMMANDS

from fairseq_signals_ext.cli import main


def outcome(name: str, world: Path, place: Path) -> str:
    """Exit status, the one line of an error, or the last line of a traceback."""
    place.mkdir()
    COMMANDS[name].place(world, place)
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), sys.stdout.encoding, write_through=True)):
            return str(main(COMMANDS[name].line(name, world, place)))
    except SystemExit as error:
        return str(error.code)
    except Exception:
        return traceback.format_exc().strip().splitlines()[-1]


if __name__ == "__main__":
    locale.setlocale(locale.LC_ALL, "")
    world, out = map(Path, sys.argv[1:])
    print(f"encodings: {sys.stdout.encoding}, {sys.getfilesystemencoding()}; 1.5 is {locale.str(1.5)}")
    sys.stdout.reconfigure(errors="backslashreplace")
    for number, name in enumerate(COMMANDS):
        print(name, outcome(name, world, out / str(number)), sep="\t", flush=True)
