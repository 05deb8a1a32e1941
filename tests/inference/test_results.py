"""Results of long runs: no row is lost or duplicated after any number of interruptions."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common import files
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import results
from fairseq_signals_ext.inference.results import Results

COLUMNS = {"name": "string", "value": "float64", "is": "bool", "flags": "list<string>", "number": "int64"}
FILES = ("t.csv", "t.parquet", "rejected.csv")


class Interrupted(Exception):
    pass


def row(number):
    flags = ["a", "b"][: number % 3]
    return {"name": f"r{number}", "value": number / 7, "is": bool(number % 2), "flags": flags, "number": number}


def run(out, total, stop=None, resume=False, name="t.csv"):
    """A run over `total` recordings, every fourth rejected, that is interrupted within recording `stop`."""
    with Results(out, FILES, {"of": "numbers"}, resume) as kept:
        for number in range(kept.done, total):
            if number % 4 == 3:
                kept.reject(f"r{number}", "bad")
            else:
                kept.add("t", row(number))
                kept.add_array(np.full((2, 3), number, np.float32))
            if number == stop:
                raise Interrupted
            kept.count()
        kept.write_table(name, "t", COLUMNS)
        arrays = np.concatenate(list(kept.arrays()) or [np.empty((0, 3))])
        return kept.finish(), arrays


@given(st.integers(0, 30), st.lists(st.integers(0, 29), max_size=4), st.sampled_from([1, 2, 7, 1000]))
@settings(max_examples=40, deadline=None)
def test_an_interrupted_run_gives_the_same_files(tmp_path_factory, total, stops, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "_PART_RECORDINGS", part)
        whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))
        expected = run(whole, total)
        for number, stop in enumerate(sorted({stop for stop in stops if stop < total})):
            with pytest.raises(Interrupted):
                run(broken, total, stop, resume=number > 0)
            # finished recordings are kept, up to the one in work
            parts = (broken / ".unfinished").glob("*.jsonl")
            assert max((int(part.stem.split("-")[1]) for part in parts), default=0) == stop
        found = run(broken, total, resume=True)
    assert found[0] == expected[0] == total // 4
    np.testing.assert_array_equal(found[1], expected[1])
    for name in ("t.csv", "rejected.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert not (broken / ".unfinished").exists()


@pytest.mark.parametrize("written", [("t.csv",), ("t.csv", "rejected.csv")])
def test_a_run_that_was_interrupted_while_it_wrote_its_files_continues(tmp_path, written):
    run(tmp_path / "whole", 9)
    with pytest.raises(Interrupted):
        run(tmp_path / "broken", 9, stop=8)
    for name in written:
        (tmp_path / "broken" / name).write_text("half of it")
    run(tmp_path / "broken", 9, resume=True)
    for name in ("t.csv", "rejected.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_no_text_breaks_a_line(tmp_path):
    texts = ["a\rb", "a\nb", "a,b", 'a"b', "a;b", " a"]
    results.write_csv(tmp_path / "x.csv", {"a": "string"}, iter([{"a": text} for text in texts]))
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        found = [row["a"] for row in csv.DictReader(file)]
    assert found == [text.replace("\r", " ") for text in texts]


def test_parquet_and_csv_hold_the_same(tmp_path):
    run(tmp_path / "a", 30, name="t.csv")
    run(tmp_path / "b", 30, name="t.parquet")
    written = list(csv.DictReader((tmp_path / "a" / "t.csv").read_text().splitlines()))
    table = pd.read_parquet(tmp_path / "b" / "t.parquet")
    for text, (_, exact), number in zip(written, table.iterrows(), [n for n in range(30) if n % 4 != 3]):
        assert exact.to_dict() == {**row(number), "flags": exact["flags"]} and [*exact["flags"]] == row(number)["flags"]
        assert text["name"] == f"r{number}" and text["is"] == str(number % 2)
        assert text["flags"] == " ".join(row(number)["flags"])
        assert float(text["value"]) == pytest.approx(number / 7, rel=1e-6)


def test_flags_that_come_late_have_their_type(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_ROWS_AT_ONCE", 1)
    run(tmp_path, 3, name="t.parquet")
    assert [list(flags) for flags in pd.read_parquet(tmp_path / "t.parquet")["flags"]] == [[], ["a"], ["a", "b"]]


def test_existing_results_are_not_replaced(tmp_path):
    run(tmp_path, 3)
    with pytest.raises(UserError, match=r"t\.csv: exists already"):
        run(tmp_path, 3)
    with Results(tmp_path, FILES, {}, overwrite=True):
        assert (tmp_path / "t.csv").exists()


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    """numpy names neither the error nor the place."""

    def full(file, array):
        raise OSError("1158144 requested and 49120 written")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(files, "_has_room", lambda folder: False)
    with pytest.raises(OSError, match="No space left") as found:
        run(tmp_path, 3)
    assert found.value.filename == str(tmp_path / ".unfinished")


def test_an_unfinished_run_is_not_forgotten(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, 5, stop=3)
    with pytest.raises(UserError, match="--resume"):
        run(tmp_path, 5)
    with pytest.raises(UserError, match="another of"):
        Results(tmp_path, FILES, {"of": "letters"}, resume=True)
    with Results(tmp_path, FILES, {"of": "letters"}, overwrite=True) as kept:
        assert kept.done == 0
    assert json.loads((tmp_path / ".unfinished" / "settings.json").read_text()) == {"of": "letters"}


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "gone", "text", "array flipped", "array gone", "renamed"])
def test_work_from_a_damaged_part_on_is_done_again(tmp_path, monkeypatch, how):
    monkeypatch.setattr(results, "_PART_RECORDINGS", 4)
    expected = run(tmp_path / "whole", 30)
    with pytest.raises(Interrupted):
        run(tmp_path / "broken", 30, stop=18)
    suffix = ".npy" if how.startswith("array") else ".jsonl"
    damaged = sorted((tmp_path / "broken" / ".unfinished").glob(f"*{suffix}"))[2]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    if how.endswith("gone"):
        damaged.unlink()
    elif how == "renamed":
        damaged.rename(damaged.with_name("0000000009-0000000012.jsonl"))
    else:
        kinds = {"cut": content[: len(content) // 2], "empty": b"", "text": b"[]\nx\n"}
        damaged.write_bytes(kinds.get(how, content))
    with Results(tmp_path / "broken", FILES, {"of": "numbers"}, resume=True) as kept:
        assert kept.done == 8
    found = run(tmp_path / "broken", 30, resume=True)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    for name in ("t.csv", "rejected.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("content", [b"[]", b"7", b"", b"\xff", b'{"of": ["numbers"]}'])
def test_damaged_settings_are_one_line(tmp_path, content):
    with pytest.raises(Interrupted):
        run(tmp_path, 5, stop=3)
    (tmp_path / ".unfinished" / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="another of; give the same, or start again with --overwrite"):
        run(tmp_path, 5, resume=True)
