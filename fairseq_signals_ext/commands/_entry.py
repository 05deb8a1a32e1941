"""How a command begins and ends, whatever happens."""

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

# what commands call the files and folders that they read
_SOURCES = ("folder", "inputs", "checkpoint", "checkpoints", "ensemble", "data", "labels", "table", "config", "log")


class Parser(argparse.ArgumentParser):
    """A parser of arguments, of which one subcommand need not be named.

    Attributes:
        unnamed: the subcommand that is meant where the first argument is the name of none, and all names; None: each
            has to be named.
    """

    unnamed: Optional[Tuple[str, Container[str]]] = None

    def __init__(self, *args: Any, **kwargs: Any):
        # an option of which a part is typed would mean another one as soon as there are more
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._given: List[str] = []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As in `argparse`, with the choice that may have been meant."""
        if action.choices is None or value in action.choices:
            return
        choices = list(map(str, action.choices))
        hint = did_you_mean(str(value), choices, f"choose from {', '.join(choices)}")
        is_path = os.path.exists(str(value))  # of the argument after it
        problem = f"missing before {value!r}" if is_path else f"{value!r} is not known"
        raise argparse.ArgumentError(action, f"{problem}; {hint}")

    def error(self, message: str) -> NoReturn:
        """One line, with the options that may have been meant by unknown ones."""
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
        """As of `argparse`, which calls this for subcommands, too."""
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

    Letters that the terminal does not know are escaped. A command that is asked to end does so as after Ctrl-C: what is
    done is kept, and nothing half-written is left.

    Args:
        extras: of the installation, without which the command does not work.

    Raises:
        SystemExit: a user's mistake, in one line.
        OSError: our own.
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
        # nobody reads the rest, as after `| head`; Python would complain when it flushes at its end
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
        # the only such text are names of files
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
    except (OSError, ValueError):  # it has no descriptor
        return False


def _quiet_libraries() -> None:
    """Show warnings only, and none of the weight norm in fairseq's models.

    This must come before fairseq is imported: its tasks for speech would set up logging, at level DEBUG.
    """
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # they log each attempt to connect; our message at the end is enough
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"torch\.nn\.utils\.weight_norm")


def _extras_of(options: argparse.Namespace) -> Sequence[str]:
    """What options need: the model that a command runs, of which an export tells only when it is read, and fetching."""
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
    """Raise a `UserError` where libraries would look for a file by another name than that of an argument."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    given = (value for option in vars(options).values() for value in (option if isinstance(option, list) else [option]))
    for value in given:
        if isinstance(value, (str, Path)) and not str(value).isascii():
            raise UserError(f"{value}: {NOT_IN_THIS_LOCALE}")


def _check_out(options: argparse.Namespace) -> None:
    """Raise a `UserError` where results would go to what they are made from."""
    out = getattr(options, "out", None)
    if out is None:
        return
    given = (getattr(options, name, None) for name in _SOURCES)
    several = (value if isinstance(value, list) else [value] for value in given if value is not None)
    check_not_source(out, [Path(one) for some in several for one in some])
    if getattr(options, "command", None) != "prepare":  # which adds to one
        check_not_prepared(out)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals that would end the process at once raise `KeyboardInterrupt` with their number; a second one ends it."""

    def end(number: int, frame: Optional[FrameType]) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt(number)

    # those that are ignored, as by nohup, stay so
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
    """What the files of an input are called, such as `A0001` for `records/A0001.hea`."""
    path = Path(name)
    # what follows a shard's name is not a suffix
    return path.name if "#" in path.name else path.stem


def distinct_names(names: Sequence[str]) -> List[str]:
    """The same names, fit for files, each another in any case of its letters."""
    found: Dict[str, str] = {}
    last: Dict[str, int] = {}
    for name in names:
        safe = safe_name(name)
        distinct, number = safe, last.get(safe.casefold(), 1)
        while distinct.casefold() in found:
            number += 1
            distinct = f"{safe}-{number}"
        found[distinct.casefold()], last[safe.casefold()] = distinct, number
    # the same on disk in a locale that has not all letters
    return [os.fsdecode(name.encode("utf-8")) for name in found.values()]
