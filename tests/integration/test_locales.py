"""The same results in any locale, or one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from disturbing import COMMANDS, make_world

HERE = Path(__file__).parent
# record ids, and files, in letters of several languages; Turkish has four letters I
NAMES = ("Müller", "Ωμέγα", "ığdır İI", "心電図")
_PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# in which the names of files, which are bytes, are other letters
_OTHER_LETTERS = "de_DE.ISO-8859-1"
_LOCALES = {
    "tr_TR.UTF-8": {},
    "de_DE.UTF-8": {},
    "C": {},
    "C, ASCII": {"LC_ALL": "C", **_PLAIN, "PYTHONIOENCODING": "ascii"},
    "C.UTF-8, terminal in ASCII": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    _OTHER_LETTERS: _PLAIN,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), recordings=len(NAMES), names=NAMES)


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """A folder with locales that the system may not have."""
    folder = tmp_path_factory.mktemp("locales")
    for name in _LOCALES:
        if "_" in name:
            language, letters = name.split(".")
            subprocess.run(
                ["localedef", "-i", language, "-f", letters, folder / name], capture_output=True, check=False
            )
    return folder


def run_all(world, out, environment):
    """Outcome of each command; all they leave."""
    out.mkdir()
    command = [sys.executable, str(HERE / "all_commands.py"), str(world), str(out)]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    first, *lines = done.stdout.decode("utf-8", "backslashreplace").splitlines()
    assert len(lines) == len(COMMANDS), done.stderr.decode(errors="replace")[-2000:]
    print(f"\n{first}")
    return dict(line.split("\t", 1) for line in lines)


def contents(out, name):
    folder = out / str([*COMMANDS].index(name))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # what they say of the place that they are in
    return {key: value.replace(os.fsencode(out), b"") for key, value in found.items()}


@pytest.fixture(scope="module")
def usual(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("usual") / "out"
    outcomes = run_all(world, out, {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"})
    assert {*outcomes.values()} == {"0"}, outcomes
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", _LOCALES)
def test_all_commands(name, world, locales, usual, tmp_path):
    environment = {"LC_ALL": name, **_LOCALES[name]}
    if "_" in name:
        if not (locales / name).is_dir():
            pytest.skip(f"no locale {name} can be made here: localedef or its sources are missing")
        environment["LOCPATH"] = str(locales)
    outcomes = run_all(world, tmp_path / "out", environment)
    for command, outcome in outcomes.items():
        print(f"| {command} | {name} | {'right result' if outcome == '0' else outcome} |")
    for command, outcome in outcomes.items():
        if outcome != "0":
            # files whose names are letters, but not in this locale
            assert "ASCII" in name or name == _OTHER_LETTERS
            assert outcome.startswith("error: "), (command, outcome)
        elif command != "export torchscript" and name != _OTHER_LETTERS:
            assert contents(tmp_path / "out", command) == contents(usual, command), command
