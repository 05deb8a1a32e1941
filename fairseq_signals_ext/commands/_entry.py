"""Start and end of every command: parsing of arguments, signals, errors and exit status."""

import argparse
import contextlib
import io
import os
import re
import select
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Container, Dict, Iterator, List, NoReturn, Optional, Sequence, Set, TextIO, Tuple

from fairseq_signals_ext.common.errors import NO_SPACE, PlaceError, UserError, exits_on_user_error, how_to_install
from fairseq_signals_ext.common.files import NOT_IN_THIS_LOCALE, check_not_prepared, check_not_source, safe_name
from fairseq_signals_ext.common.hints import close_names, did_you_mean

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

# names of the arguments for files and folders that commands read
_SOURCES = ("folder", "inputs", "checkpoint", "checkpoints", "ensemble", "data", "labels", "table", "config", "log")


class Parser(argparse.ArgumentParser):
    """An argument parser with an optional default subcommand.

    Attributes:
        unnamed: the default subcommand if the first argument is no subcommand's name, and all names; None: there is
            no default.
    """

    unnamed: Optional[Tuple[str, Container[str]]] = None

    def __init__(self, *args: Any, **kwargs: Any):
        # an abbreviated option could get another meaning when options are added
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._given: List[str] = []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As in `argparse`, with the most similar choice."""
        if action.choices is None or value in action.choices:
            return
        choices = list(map(str, action.choices))
        hint = did_you_mean(str(value), choices, f"choose from {', '.join(choices)}")
        # of the argument after it
        is_path = not action.option_strings and os.path.exists(str(value))
        problem = f"missing before {value!r}" if is_path else f"{value!r} is not known"
        raise argparse.ArgumentError(action, f"{problem}; {hint}")

    def error(self, message: str) -> NoReturn:
        """Exit with one line that suggests similar options for unknown ones."""
        known = sorted(_options_of(self))
        for given in self._given:
            name = given.split("=")[0]
            if not re.fullmatch(r"--[a-z][\w-]*", name) or name in known:
                continue
            begin_so = [one for one in known if one.startswith(name)]
            close = begin_so or close_names(name, known)
            if close:
                message += f"; {name}: did you mean {' or '.join(close)}?"
        command = next((f" {name}" for name in self._given[:1] if name in _commands_of(self)), "")
        self.exit(2, f"error: {message}{'' if message.endswith('?') else ';'} see {self.prog}{command} --help\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # several forms
        """As in `argparse`, which also calls this for subcommands."""
        self._given = list(args or [])
        if self.unnamed is not None and args is not None:
            name, names = self.unnamed
            args = args if args and args[0] in names else [name, *args]
        return super().parse_known_args(args, namespace)


def _commands_of(parser: argparse.ArgumentParser) -> Set[str]:
    """The subcommands of a parser."""
    groups = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name for choices in groups for name in choices}


def _options_of(parser: argparse.ArgumentParser) -> Set[str]:
    """The options of a parser and of its subcommands."""
    found: Set[str] = set()
    for action in parser._actions:
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(_options_of, action.choices.values()))
    return found


@exits_on_user_error
def run_command(
    run: Callable[[argparse.Namespace], int], options: argparse.Namespace, extras: Sequence[str] = ()
) -> int:
    """Run a command; returns the exit status.

    Characters that the terminal cannot show are escaped. A termination signal has the same effect as Ctrl-C: finished
    work is kept, and no incomplete file is left.

    Args:
        extras: extras of the installation that the command needs.

    Raises:
        SystemExit: a user's mistake, in one line.
        OSError: an error in the program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _quiet_libraries()
    _check_locale(options)
    _check_out(options)
    resumes = hasattr(options, "resume")
    try:
        with _ended_by_signals():
            status = int(run(options))
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise
        # the reader has ended, such as `| head`; Python would report an error when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as error:
        print(f"\ninterrupted{'; continue with --resume' if resumes else ''}", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except ModuleNotFoundError as error:
        missing = how_to_install(error.name or "", [*extras, *_extras_of(options)])
        if missing is None:
            raise
        raise UserError(missing) from error
    except UnicodeEncodeError as error:
        # only file names can contain such text
        raise UserError(f"{error.object}: {NOT_IN_THIS_LOCALE}") from error
    except OSError as error:
        place = PlaceError.of(error)
        if place is None:
            raise
        is_full = place.errno in NO_SPACE and resumes
        raise UserError(
            place.with_hint("free some space and continue with --resume") if is_full else str(place)
        ) from error


def _is_closed(stream: TextIO) -> bool:
    """Whether a pipe's reader has ended."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # it has no file descriptor
        return False


def _quiet_libraries() -> None:
    """Show only warnings, without the one about weight norm in fairseq's models.

    Call this before fairseq is imported: its speech tasks would set up logging at level DEBUG.
    """
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # libraries log each attempt to connect; our final message is enough
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"torch\.nn\.utils\.weight_norm")


def _extras_of(options: argparse.Namespace) -> Sequence[str]:
    """Extras that the options need: to run the model and to download it; an export's format is read from its file."""
    needed = ["download"] * getattr(options, "download", False)
    source = getattr(options, "checkpoint", None)
    if source is None:
        return needed
    from fairseq_signals_ext.checkpoints.description import read_description  # with numpy, which help does not need

    with contextlib.suppress(UserError):  # it is not an export
        path = Path(source)
        weights = read_description(path if path.is_dir() else path.parent)[1]
        if path.is_dir() or weights.name == path.name:
            return [*needed, "onnx" if weights.suffix == ".onnx" else "train"]
    return [*needed, "train"] if str(source).endswith(".pt") else needed


def _check_locale(options: argparse.Namespace) -> None:
    """Raise a `UserError` if the locale makes libraries look for a file with a wrong name."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    given = (value for option in vars(options).values() for value in (option if isinstance(option, list) else [option]))
    for value in given:
        if isinstance(value, (str, Path)) and not str(value).isascii():
            raise UserError(f"{value}: {NOT_IN_THIS_LOCALE}")


def _check_out(options: argparse.Namespace) -> None:
    """Raise a `UserError` if results would be written into an input."""
    out = getattr(options, "out", None)
    if out is None:
        return
    given = (getattr(options, name, None) for name in _SOURCES)
    several = (value if isinstance(value, list) else [value] for value in given if value is not None)
    check_not_source(out, [Path(one) for some in several for one in some])
    if getattr(options, "command", None) != "prepare":  # `prepare` adds to a prepared folder
        check_not_prepared(out)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Termination signals raise `KeyboardInterrupt` with their number; a second signal ends the process."""

    def end(number: int, frame: Optional[FrameType]) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt(number)

    # signals that are ignored, such as with nohup, stay ignored
    taken = [number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def stem_of(name: str) -> str:
    """File name without suffix for an input's results, such as `A0001` for `records/A0001.hea`."""
    path = Path(name)
    # the text after # is no suffix
    return path.name if "#" in path.name else path.stem


def distinct_names(names: Sequence[str]) -> List[str]:
    """Turn names into valid file names that differ even if case is ignored."""
    found: Dict[str, str] = {}
    last: Dict[str, int] = {}
    for name in names:
        safe = safe_name(name)
        distinct, number = safe, last.get(safe.casefold(), 1)
        while distinct.casefold() in found:
            number += 1
            distinct = f"{safe}-{number}"
        found[distinct.casefold()], last[safe.casefold()] = distinct, number
    # the same bytes on disk in a locale without some of the letters
    return [os.fsdecode(name.encode("utf-8")) for name in found.values()]
