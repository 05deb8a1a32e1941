"""Every command that writes, disturbed: one line and nothing half-written, or the right result; the same again after.

A table of what came of it is printed at the end (`-s`). Longer ones are proofs.
"""

import contextlib
import gc
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from disturbing import COMMANDS, make_world

from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.files import LOCK_NAME

PAGE = os.sysconf("SC_PAGE_SIZE")
# commands in the normal tests; the proofs test all
QUICK = ("predict", "explain", "prepare", "label", "export safetensors", "config convert")
# torch numbers its traces
_OTHER_EACH_TIME = ("export torchscript",)
# commands that continue, or start again, in their existing folder
WITH_A_FOLDER = [name for name in COMMANDS if name not in ("verify", "config convert", "curve")]


def some_slow(*quick, of=COMMANDS):
    """Parameters: commands; all but some are marked slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in of]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), recordings=4)


@pytest.fixture(scope="module")
def told():
    """What came of each: printed as a table."""
    rows = []
    yield lambda *row: rows.append(row)
    print("\n| command | disturbance | outcome |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


@pytest.fixture
def disk(tmp_path):
    """An empty disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a disk of its own can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run(name, world, place, *more):
    """Run a command; returns its exit status, or the one line of an error."""
    try:
        return main([*COMMANDS[name].line(name, world, place), *more])
    except SystemExit as error:
        assert isinstance(error.code, str) and error.code.startswith("error: ") and "\n" not in error.code, error.code
        return error.code


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def emptied(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def same(name, found, expected):
    return found.keys() == expected.keys() if name in _OTHER_EACH_TIME else found == expected


@contextlib.contextmanager
def filled(disk, pages):
    """So many pages of the disk are free."""
    filler, free = disk / "filler", os.statvfs(disk)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - pages * PAGE))
    try:
        yield
    finally:
        filler.unlink()


def full_disk(name, world, disk, steps, told):
    """Disks with different free space: none, a little, and nearly enough for the command's files."""
    command = COMMANDS[name]
    command.place(world, disk)
    before = contents(disk)
    assert run(name, world, disk) == 0
    expected = contents(disk)
    size = sum(map(len, expected.values())) - sum(map(len, before.values()))
    points = sorted({0, 1, *(size * step // (steps * PAGE) for step in range(steps))})
    failed = 0
    for pages in points:
        gc.collect()  # a model that is mapped from a removed file takes room
        emptied(disk)
        command.place(world, disk)
        with filled(disk, pages):
            outcome = run(name, world, disk)
        if outcome != 0:
            failed += 1
            assert "No space left on device; " in str(outcome), outcome
            assert ("continue with --resume" in str(outcome)) == ("--resume" in command.again)
            assert not [path for path in contents(disk) if ".tmp" in path or path.endswith(LOCK_NAME)]
            assert run(name, world, disk, *command.again) == 0
        assert same(name, contents(disk), expected), (name, pages)
    assert failed
    told(name, f"full disk, at {len(points)} points", f"{failed} times one line, then as undisturbed")


@pytest.mark.parametrize("name", some_slow(*QUICK))
def test_full_disk(name, world, disk, told):
    full_disk(name, world, disk, 2, told)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_at_any_time(name, world, disk, told):
    full_disk(name, world, disk, 24, told)


@pytest.mark.parametrize("name", WITH_A_FOLDER)
def test_another_run(name, world, tmp_path, told):
    """The lock of a killed process is ignored, and its incomplete files are removed."""
    from filelock import FileLock

    command = COMMANDS[name]
    place = tmp_path / "place"
    place.mkdir()
    command.place(world, place)
    before = contents(place)
    lock = place / command.lock
    lock.parent.mkdir(exist_ok=True, parents=True)
    with FileLock(lock):
        lock.write_text(f"{os.getpid()}\n")
        outcome = run(name, world, place)
        assert f"another run is writing to this folder (process {os.getpid()})" in str(outcome)
        assert {name: text for name, text in contents(place).items() if not name.endswith(LOCK_NAME)} == before
    told(name, "another run in its folder", "one line")


@pytest.mark.parametrize("name", some_slow(*QUICK, of=WITH_A_FOLDER))
def test_a_killed_run(name, world, tmp_path, told):
    """Its lock is ignored, and its incomplete files are removed."""
    command = COMMANDS[name]
    (tmp_path / "place").mkdir()
    command.place(world, tmp_path / "place")
    lock = tmp_path / "place" / command.lock
    lock.parent.mkdir(exist_ok=True, parents=True)
    lock.write_text("999999999\n")
    left = lock.with_name(f".{command.left}.999-0123abcd.tmp")
    left.write_text("half") if "." in command.left else left.mkdir()
    assert run(name, world, tmp_path / "place") == 0
    assert not lock.exists() and not left.exists()
    told(name, "lock and pieces of a killed run", "right result")


@pytest.mark.parametrize("name", some_slow(*QUICK))
def test_read_only_disk(name, world, disk, told):
    COMMANDS[name].place(world, disk)
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    outcome = run(name, world, disk)
    assert "give another " in str(outcome) and str(disk) in str(outcome), outcome
    assert contents(disk) == before
    told(name, "read-only disk", "one line")


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("name", some_slow("predict", "label", of=[*QUICK, "curve", "export ecg-fm"]))
def test_folder_of_another_user(name, world, told):
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        shutil.copytree(world, top / "world")
        for place in (top / "first", top / "place"):
            place.mkdir()
            command.place(world, place)
        assert run(name, top / "world", top / "first") == 0  # all is imported, which another user may not be able to
        before = contents(top / "place")
        for folder in (top, top / "world"):
            folder.chmod(0o755)
        os.seteuid(65534)
        try:
            outcome = run(name, top / "world", top / "place")
        finally:
            os.seteuid(0)
        assert "Permission denied; give another " in str(outcome) and str(top / "place") in str(outcome), outcome
        assert contents(top / "place") == before
    told(name, "folder of another user", "one line")


NAMES = {
    "spaces": " a  b ",
    "line break": "a\nb",
    "letters": "Ähre Ω ığİ 心",
    "dash": "-n",
    "glob": "[a]*?",
    "quotes": "a'b\"c",
    "bytes": b"a\xff\xfe".decode("utf-8", "surrogateescape"),
}


@pytest.mark.parametrize("name", some_slow("predict", "prepare", "label", "config convert"))
def test_names_of_folders(name, world, tmp_path, told):
    for kind, folder in NAMES.items():
        place = tmp_path / folder
        place.mkdir()
        COMMANDS[name].place(world, place)
        outcome = run(name, world, place)
        if kind == "bytes":
            assert outcome == 0 or folder.encode("unicode_escape").decode() in outcome, outcome
        else:
            assert outcome == 0, (kind, outcome)
        told(name, f"folder with {kind}", "one line" if outcome else "right result")


@pytest.mark.parametrize("umask", [0o077, *(pytest.param(one, marks=pytest.mark.slow) for one in (0o000, 0o777))])
@pytest.mark.parametrize("name", some_slow(*QUICK))
def test_umask(name, umask, world, tmp_path, told):
    """Files have the rights that the umask leaves."""
    (tmp_path / "place").mkdir()
    COMMANDS[name].place(world, tmp_path / "place")
    before = contents(tmp_path)
    earlier = os.umask(umask)
    try:
        outcome = run(name, world, tmp_path / "place")
    finally:
        os.umask(earlier)
    assert outcome == 0
    new = [tmp_path / path for path in contents(tmp_path).keys() - before.keys()]
    assert new and all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in new)
    told(name, f"umask {umask:03o}", "right result")
