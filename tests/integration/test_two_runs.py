"""Two processes that begin to write to one folder at the same time: one goes on, the other ends with one line."""

import os
import subprocess
import sys

import pytest
from disturbing import COMMANDS, make_world


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), recordings=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["predict", "embed", "explain", "report", "prepare", "evaluate", "export safetensors", "label", "split"]
)
def test_two_at_once(name, world, tmp_path):
    for place in ("usual", "both"):
        (tmp_path / place).mkdir()
        COMMANDS[name].place(world, tmp_path / place)
    usual, command = (
        [sys.executable, "-m", "fairseq_signals_ext", *COMMANDS[name].line(name, world, tmp_path / place)]
        for place in ("usual", "both")
    )
    subprocess.run(usual, check=True, capture_output=True)
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in started]
    lines = [line for error in errors for line in error.splitlines() if line.startswith("error: ")]
    print(f"\n| {name} | 3 at once | {' / '.join(lines)} |")
    assert sorted(process.returncode for process in started) == [0, 1, 1]
    assert len(lines) == 2 and not any("Traceback" in error for error in errors)
    for line in lines:
        # where the first is done before another looks, that has nothing to say but that results are there
        assert any(words in line for words in ("another run is writing", "exists already", "--resume"))
    found, expected = contents(tmp_path / "both"), contents(tmp_path / "usual")
    place, usual = (os.fsencode(tmp_path / one) for one in ("both", "usual"))
    assert {key: value.replace(place, usual) for key, value in found.items()} == expected
