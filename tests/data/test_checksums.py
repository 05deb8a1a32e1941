"""Records of checksums: at each moment true of the files beside them, and no way out of their folder."""

import json
import os
import shutil
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data import checksums
from fairseq_signals_ext.data.checksums import (
    CHECKSUMS_NAME,
    check,
    checksum,
    problems_of,
    read_record,
    record_folder,
    replacing,
)
from fairseq_signals_ext.prepared.verify_files import update_checksums

NAMES = ("a.txt", "b.txt")


@given(st.binary(max_size=3000), st.data())
@settings(max_examples=60, deadline=None)
def test_every_change_is_noticed_and_every_copy_is_not(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("folder") / "a.txt"
    path.write_bytes(content)
    assert checksum(path) == f"{zlib.crc32(content):08x} of {len(content)} bytes"
    record_folder(path.parent, "split")
    check(path)
    other = data.draw(st.binary(max_size=3000).filter(lambda one: one != content))
    path.write_bytes(other)
    with pytest.raises(UserError, match=r"a\.txt: checksum differs \(stored [^\n]+\); make the split again"):
        check(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: no such file"):
        check(path)
    assert len(problems_of(path.with_name(CHECKSUMS_NAME))) == 1


def replace(folder, content):
    with replacing(folder, NAMES) as temporaries:
        for path in temporaries:
            path.write_text(content)


@pytest.mark.parametrize("recorded", [True, False])
def test_the_record_is_true_whenever_the_process_is_killed(tmp_path, monkeypatch, recorded):
    folder, seen = tmp_path / "folder", []
    folder.mkdir()
    replace(folder, "before")
    if not recorded:  # by an older version
        (folder / CHECKSUMS_NAME).unlink()
    real = os.replace

    def watched(*arguments):
        real(*arguments)
        seen.append(shutil.copytree(folder, tmp_path / f"killed-{len(seen)}"))

    monkeypatch.setattr(os, "replace", watched)
    replace(folder, "after")
    monkeypatch.undo()
    assert len(seen) == 4, "two files, and the record before and after them"
    for killed in seen:
        for name in NAMES:
            check(killed / name)
        replace(killed, "after")
        assert read_record(killed / CHECKSUMS_NAME) == read_record(folder / CHECKSUMS_NAME)
    (folder / "a.txt").write_text("before")
    assert problems_of(folder / CHECKSUMS_NAME), "what was there before is not accepted for ever"


def test_a_block_that_fails_changes_nothing(tmp_path):
    replace(tmp_path, "before")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyError), replacing(tmp_path, NAMES) as temporaries:
        temporaries[0].write_text("after")
        raise KeyError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    replace(tmp_path, "before")
    real, looks = checksums.checksum, []

    def slow(path):
        looks.append(path)
        if len(looks) == 1:
            replace(tmp_path, "after")
        return real(path)

    monkeypatch.setattr(checksums, "checksum", slow)
    check(tmp_path / "a.txt")


def record(command="split", files=None, **others):
    """A record with its own checksum, as somebody may make it up."""
    files = {"a.txt": ["00000000 of 1 bytes"]} if files is None else files
    own = f"{zlib.crc32(json.dumps([command, files], sort_keys=True).encode()):08x}"
    return json.dumps({"command": command, "checksums": files, "crc32": own, **others})


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "1", "{}", "[" * 100_000, "\x00", '{"checksums": {}, "command": "split"}'),
        record(crc32="00000000"),
        record(command=3),
        record(files=[]),
        record(files={"a.txt": "00000000"}),
        record(files={"a.txt": []}),
        record(files={"a.txt": [1]}),
        record(files={"../a.txt": ["00000000 of 1 bytes"]}),
        record(files={"/dev/zero": ["00000000 of 1 bytes"]}),
        record(files={"..": ["00000000 of 1 bytes"]}),
        record(files={"a\nb": ["00000000 of 1 bytes"]}),
        record(files={"a.txt": ["0\n0"]}),
        record(files={"": ["00000000 of 1 bytes"]}),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, content):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / CHECKSUMS_NAME).write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json: [^\n]+ --update-checksums$"):
        check(tmp_path / "a.txt")
    assert len(problems_of(tmp_path / CHECKSUMS_NAME)) == 1
    assert update_checksums(tmp_path)
    check(tmp_path / "a.txt")


def test_update_lists_accepted_changes(tmp_path):
    folder = tmp_path / "labels" / "l"
    folder.mkdir(parents=True)
    for name in (*NAMES, ".hidden"):
        (folder / name).write_text(name)
    assert [line.split(": ")[0].split("/")[-1] for line in update_checksums(folder)] == ["a.txt", "b.txt"]
    assert read_record(folder / CHECKSUMS_NAME).command == "label"
    (folder / "a.txt").unlink()
    (folder / "c.txt").write_text("c")
    lines = update_checksums(folder)
    assert [line.split("/")[-1].split(" of ")[0] for line in lines] == [
        f"a.txt: {zlib.crc32(b'a.txt'):08x}",
        "c.txt: none -> " + f"{zlib.crc32(b'c'):08x}",
    ]
    assert update_checksums(folder) == []
    with pytest.raises(UserError, match="no such folder"):
        update_checksums(tmp_path / "none")
