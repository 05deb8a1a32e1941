"""A run in parts gives the same files as one run, byte for byte, in any order and with any interruptions."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_counts, write_label_file, write_shards
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import reading_ahead, results
from fairseq_signals_ext.inference.parts import Part

PARTS = 16
# files of so many ECGs; 0: one that cannot be used
ECGS = [1, 3, 1, 2, 0, 1, 1, 1, 4, 1, 1, 0, 1, 2, 1, 1, 1, 1, 2, 1, 1]
RATE = ("--input-rate", "500")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """So that few recordings make many parts."""
    monkeypatch.setattr(reading_ahead, "GROUP", 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(saved_checkpoint(tmp_path_factory.mktemp("model") / "a.pt"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for number, ecgs in enumerate(ECGS):
        signals = [made_up_counts(rng, 600 + 700 * (number % 4)) / 1000 for _ in range(ecgs)]
        np.save(folder / f"{number:02d}.npy", np.stack(signals) if ecgs else np.zeros((12, 600)))
    return sorted(map(str, folder.iterdir()))


@given(st.integers(0, 2000), st.integers(1, 40))
def test_parts_have_all_inputs_in_order_and_begin_with_a_batch(inputs, total):
    ranges = [part.range_of(inputs) for part in Part(1, total).all]
    assert [number for one in ranges for number in one] == list(range(inputs))
    assert all(one.start % reading_ahead.GROUP == 0 for one in ranges if len(one))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/99999", "1/4/4", ""])
def test_no_part(text):
    with pytest.raises(UserError, match="such as 3/16"):
        Part.of(text)


def run(*arguments, out):
    return main([*map(str, arguments), "--out", str(out)])


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def in_parts(*arguments, out, order=None):
    """Exit statuses of all parts; before the last one is done there are only parts."""
    statuses = []
    for number in order or range(1, PARTS + 1):
        assert [path.name for path in out.glob("*")] in ([], [".unfinished"])
        statuses.append(run(*arguments, "--part", f"{number}/{PARTS}", out=out))
    return statuses


def interrupt(monkeypatch, at):
    """Let runs end after so many recordings."""
    count, calls = results.Results.count, iter(range(1, 1000))

    def interrupted(self, *arguments):
        count(self, *arguments)
        if next(calls) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(results.Results, "count", interrupted)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_predict(checkpoint, files, tmp_path, capsys, format, batch_size):
    options = ["predict", checkpoint, *files, *RATE, "--segments", "--format", format, "--batch-size", batch_size]
    assert run(*options, out=tmp_path / "whole") == 1
    said = capsys.readouterr().out.replace("whole", "parts")
    order = np.random.default_rng(batch_size).permutation(range(1, PARTS + 1)).tolist()
    assert in_parts(*options, out=tmp_path / "parts", order=order) == [0] * (PARTS - 1) + [1]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    lines = capsys.readouterr().out
    assert lines.startswith(f"{tmp_path / 'parts'}: part {order[0]}/{PARTS} is done\n") and lines.endswith(said)


def test_predict_interrupted(checkpoint, files, tmp_path, monkeypatch):
    options = ["predict", checkpoint, *files, *RATE, "--batch-size", 2]
    assert run(*options, out=tmp_path / "whole") == 1
    out = tmp_path / "parts"
    for number in range(1, 4):
        part = [*options, "--part", f"{number}/3"]
        for at in (3, 2):
            with monkeypatch.context() as patch:
                interrupt(patch, at)
                assert run(*part, "--resume", out=out) == 130
        with pytest.raises(SystemExit, match="has an unfinished run; continue with --resume"):
            run(*part, out=out)
        status = run(*part, "--resume", out=out)
    assert status == 1 and content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("options", [["--per", "frame"], ["--format", "parquet"]])
def test_embed(checkpoint, files, tmp_path, options):
    options = ["embed", checkpoint, *files, *RATE, *options]
    assert run(*options, out=tmp_path / "whole") == 1
    assert in_parts(*options, out=tmp_path / "parts")[-1] == 1
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, [1000 + 500 * (row % 4) for row in range(60)], split="test")
    lines = (folder / "test.tsv").read_text().splitlines()
    (folder / "test.tsv").write_text("\n".join(lines[:41]) + "\n")
    (folder / "valid.tsv").write_text("\n".join([lines[0], *lines[41:]]) + "\n")
    values = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(float)
    values[::7, 1] = np.nan
    write_label_file(folder / "labels", values, ["A", "B", "C"])
    return folder


def test_evaluate(checkpoint, data, tmp_path, capsys, monkeypatch):
    other = saved_checkpoint(tmp_path / "b.pt", encoder_layers=1)
    options = ["evaluate", checkpoint, other, "--data", data, "--subset", "test", "--labels", data / "labels"]
    options += ["--resamples", 10, "--batch-size", 4, "--device", "cpu"]
    assert run(*options, out=tmp_path / "whole") == 0
    said = capsys.readouterr().out.replace("whole", "parts")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert run(*options, "--part", f"5/{PARTS}", out=tmp_path / "parts") == 130
    capsys.readouterr()
    assert in_parts(*options, out=tmp_path / "parts") == [0] * PARTS
    assert capsys.readouterr().out.endswith(said)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.mark.slow
def test_devices_are_parts(checkpoint, files, tmp_path):
    """In processes of their own, as other numbers of threads, which tests set, change the last digits."""
    for out, device in (("whole", "cpu"), ("parts", "cpu,cpu")):
        command = ["-m", "fairseq_signals_ext.cli", "predict", checkpoint, *files, *RATE, "--threads", "1"]
        more = ["--device", device, "--jobs", "2", "--out", str(tmp_path / out)]
        assert subprocess.run([sys.executable, *command, *more]).returncode == 1
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_conflicting_options_are_one_line(checkpoint, files, tmp_path):
    out = tmp_path / "out"
    options = ["predict", checkpoint, *files[:3], *RATE]
    for more, told in (
        (["--part", "1/2", "--overwrite"], "--overwrite: a part would replace the others"),
        (["--part", "1/2", "--device", "cpu,cpu"], "leave --backend out, and name one --device"),
        (["--backend", "dask"], "the number of parts with --jobs"),
        (["--part", "3/2"], "such as 3/16"),
    ):
        with pytest.raises(SystemExit, match=told):
            run(*options, *more, out=out)
    assert run(*options, "--part", "1/2", out=out) == 0
    with pytest.raises(SystemExit, match="has an unfinished run in several parts"):
        run(*options, "--resume", out=out)
    with pytest.raises(SystemExit, match="in another number of parts"):
        run(*options, "--part", "1/3", out=out)
    with pytest.raises(SystemExit, match="of another run than part 1"):
        run(*options, "--segments", "--part", "2/2", out=out)
    assert not (out / "predictions.csv").exists()
    settings = json.loads((out / ".unfinished" / "part-00001-of-00002" / "settings.json").read_text())
    assert settings["segments"] is False
    assert run(*options, "--overwrite", out=out) == 0 and not (out / ".unfinished").exists()
