"""`fairseq-signals-ext embed` as a user runs it: each row equals `LoadedModel.embed` of the recording."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_up import write_mat, write_shards
from made_up_checkpoints import saved_checkpoint
from running import mistake_of

import fairseq_signals_ext
from fairseq_signals_ext.analysis import embeddings
from fairseq_signals_ext.analysis.embeddings_folder import open_embeddings
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.inference.model import LoadedModel

# samples; the made-up model takes 500 of every 2500, so the third has padding
LENGTHS = (2600, 12_600, 300, 5000, 7500, 2500)
SEGMENTS = (1, 5, 1, 2, 3, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", "pretraining")


@pytest.fixture(scope="module")
def model(checkpoint):
    return fairseq_signals_ext.load(checkpoint)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, LENGTHS, split="all")
    return folder / "all.tsv"


def embed(checkpoint, out, *given, status=0):
    arguments = ["embed", str(checkpoint), *map(str, given), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == status
    return out


def error_of(*arguments):
    """The one line of a user's mistake."""
    return mistake_of(main, [str(argument) for argument in arguments])


def pieces(found, name):
    """The vectors of each recording."""
    table = pd.read_csv(found / "embeddings.csv")
    vectors = np.load(found / name, mmap_mode="r")
    assert isinstance(vectors, np.memmap) and vectors.dtype == np.float32
    assert table["rows"].sum() == len(vectors)
    return table, [vectors[first : first + rows] for first, rows in zip(table["first_row"], table["rows"])]


@pytest.mark.parametrize("layer", [None, 0, 1])
@pytest.mark.parametrize("per", ["recording", "segment"])
def test_rows_are_those_of_single_recordings(checkpoint, model, data, tmp_path, per, layer):
    options = [] if layer is None else ["--layer", layer]
    found = embed(checkpoint, tmp_path, data, "--per", per, *options)
    table, vectors = pieces(found, "embeddings.npy")
    inputs = find_inputs([data])
    assert table["segments"].tolist() == list(SEGMENTS)
    assert table["rows"].tolist() == (list(SEGMENTS) if per == "segment" else [1] * len(LENGTHS))
    for number, rows in enumerate(vectors):
        expected = model.embed(inputs.recording(number), per=per, layer=layer)
        np.testing.assert_allclose(rows, expected.reshape(-1, 32), atol=1e-5)
    assert table["file"].tolist() == [inputs.name(number) for number in range(len(LENGTHS))]
    assert table["seconds"].tolist() == [samples / 500 for samples in LENGTHS]
    assert table["flags"].str.split().map(lambda flags: "short" in flags if flags == flags else False).sum() == 1


@pytest.mark.parametrize("layer", [None, 1])
def test_frames_without_those_of_padding(checkpoint, model, data, tmp_path, layer):
    options = [] if layer is None else ["--layer", layer]
    table, vectors = pieces(embed(checkpoint, tmp_path, data, "--per", "frame", *options), "embeddings.npy")
    inputs = find_inputs([data])
    # four convolutions of stride 2: 500 samples are 31 frames, 300 are 18
    assert table["frames"].tolist() == [18 if samples == 300 else 31 for samples in LENGTHS]
    for number, rows in enumerate(vectors):
        expected = model.embed(inputs.recording(number), per="frame", layer=layer)
        frames = table["frames"][number]
        np.testing.assert_allclose(rows, expected[:, :frames].reshape(-1, 32), atol=1e-5)
        assert expected[:, :frames].any(axis=-1).all() and not expected[:, frames:].any()
    facts = json.loads((tmp_path / "embedding.json").read_text())
    assert (facts["frame_seconds"], facts["segment_seconds"]) == (16 / 500, 5.0)


def test_frames_of_the_reference(golden_folder, tmp_path):
    """Its inputs are standardised, so they are given as ECG-FM's files, here rounded to 16 bits."""
    golden = np.load(golden_folder / "tiny_golden.npz")
    lines = [f"{tmp_path}\n"]
    for number, source in enumerate(golden["source"]):
        write_mat(tmp_path / f"{number}.mat", source, number)
        lines.append(f"{number}.mat\t{source.shape[1]}\n")
    (tmp_path / "test.tsv").write_text("".join(lines))
    out = embed(golden_folder / "tiny_pretrained.pt", tmp_path / "out", tmp_path / "test.tsv", "--per", "frame")
    found = np.load(out / "embeddings.npy").reshape(golden["encoder_out"].shape)
    np.testing.assert_allclose(found, golden["encoder_out"], atol=2e-3)
    exact = fairseq_signals_ext.load(golden_folder / "tiny_pretrained.pt").embedder("frame", None)
    (frames,) = exact(golden["source"], np.zeros((8, 2500), bool))
    np.testing.assert_allclose(frames, golden["encoder_out"], atol=1e-5)


@pytest.mark.parametrize("per", ["recording", "frame"])
def test_batches_make_no_difference(checkpoint, data, tmp_path, per):
    alone, together = (
        np.load(embed(checkpoint, tmp_path / size, data, "--per", per, "--batch-size", size) / "embeddings.npy")
        for size in ("1", "64")
    )
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(("per", "file_format"), [("segment", "npy"), ("frame", "parquet")])
def test_resumed_run_leaves_the_same_files(checkpoint, data, tmp_path, monkeypatch, per, file_format):
    # with one segment per batch, results do not depend on where the run begins
    options = [data, "--per", per, "--format", file_format, "--batch-size", 1]
    whole = embed(checkpoint, tmp_path / "whole", *options)
    embedding_of, done = LoadedModel.embedding_of, []

    def interrupted(self, *arguments):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return embedding_of(self, *arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(LoadedModel, "embedding_of", interrupted)
        embed(checkpoint, out, *options, status=130)
    assert not list(out.glob("embedding*"))
    assert "has an unfinished run; continue with --resume" in error_of("embed", checkpoint, *options, "--out", out)
    other = ["--layer", "1", "--resume", "--out", out]
    assert "its unfinished run had another layer" in error_of("embed", checkpoint, *options, *other)
    done.clear()
    monkeypatch.setattr(LoadedModel, "embedding_of", lambda self, *given: done.append(1) or embedding_of(self, *given))
    embed(checkpoint, out, *options, "--resume")
    assert len(done) == len(LENGTHS) - 3
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in out.iterdir())
    assert all((whole / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize("per", ["recording", "segment", "frame"])
def test_parquet_holds_the_same(checkpoint, data, tmp_path, per):
    table, vectors = pieces(embed(checkpoint, tmp_path / "npy", data, "--per", per), "embeddings.npy")
    out = embed(checkpoint, tmp_path / "parquet", data, "--per", per, "--format", "parquet")
    assert not (out / "embeddings.npy").exists() and not (out / "embeddings.csv").exists()
    found = pq.read_table(out / "embeddings.parquet")
    assert str(found.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), np.concatenate(vectors))
    np.testing.assert_array_equal(found["recording"].to_numpy(), np.repeat(range(len(LENGTHS)), table["rows"]))
    assert found["file"].to_pylist() == np.repeat(table["file"].to_numpy(), table["rows"]).tolist()
    if per == "frame":
        # the second recording's third segment begins after 10 s, its fifth frame 4 * 16 samples later
        row = found.slice(31 + 2 * 31 + 4, 1).to_pylist()[0]
        assert (row["recording"], row["segment"], row["start"]) == (1, 2, pytest.approx(10.128))
    opened = [open_embeddings(tmp_path / name) for name in ("npy", "parquet")]
    np.testing.assert_array_equal(opened[0].vectors, opened[1].vectors)
    names = ["record_id", "file", "seconds", "segments", "flags", "first_row", "rows"]
    pd.testing.assert_frame_equal(opened[0].recordings[names], opened[1].recordings[names], check_dtype=False)


def test_unusable_files_are_rejected(checkpoint, model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    signals = {"a": rng.normal(size=(12, 900)), "b": np.ones((12, 900)), "c": rng.normal(size=(12, 8))}
    for name, signal in {**signals, "e": rng.normal(size=(12, 700))}.items():
        np.save(tmp_path / f"{name}.npy", signal)
    (tmp_path / "d.npy").write_bytes(b"no array")
    files = [tmp_path / f"{name}.npy" for name in "abcde"]
    for per in ("recording", "frame"):
        options = ["--per", per, "--input-rate", 500, "--input-unit", "mV"]
        out = embed(checkpoint, tmp_path / per, *files, *options, status=1)
        rejected = pd.read_csv(out / "rejected.csv").set_index("file")["reason"]
        assert rejected.index.tolist() == [str(tmp_path / f"{name}.npy") for name in "bcd"]
        assert "give a recording longer than 0.016 s" in rejected[str(tmp_path / "c.npy")]
        table, vectors = pieces(out, "embeddings.npy")
        assert table["record_id"].tolist() == ["a", "e"]
        for file, rows in zip((files[0], files[4]), vectors):
            expected = model.embed(file, sample_rate=500, per=per)
            np.testing.assert_allclose(rows, expected.reshape(-1, 32), atol=1e-5)
    assert "3 rejected" in capsys.readouterr().out


def test_nothing_to_embed(checkpoint, tmp_path):
    np.save(tmp_path / "flat.npy", np.ones((12, 900)))
    for file_format in ("npy", "parquet"):
        options = [tmp_path / "flat.npy", "--input-rate", 500, "--format", file_format]
        out = embed(checkpoint, tmp_path / file_format, *options, status=1)
        message = error_of("embed", "--from", out, "--umap")
        assert f"embeddings.{file_format}: contains no embeddings, as all recordings were rejected" in message


def test_results_are_not_replaced_without_overwrite(checkpoint, data, tmp_path):
    out = embed(checkpoint, tmp_path, data)
    (out / "map.csv").touch()
    assert "exists already; give another --out" in error_of("embed", checkpoint, data, "--out", out)
    embed(checkpoint, out, data, "--overwrite")
    # of places of the vectors before
    assert not (out / "map.csv").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "embedding.json").unlink(), "embedding.json: no such file; give a folder"),
        (lambda out: (out / "embedding.json").write_text("[1]"), "embedding.json: not of embeddings of this version"),
        (lambda out: (out / "embeddings.npy").unlink(), "embeddings.npy: cannot be read"),
        (lambda out: np.save(out / "embeddings.npy", np.zeros((2, 32))), "embeddings.npy: is not the file that"),
        (lambda out: (out / "embeddings.npy").write_bytes(b"x"), "embeddings.npy: cannot be read"),
        (lambda out: (out / "embeddings.csv").write_text("file\na\n"), "embeddings.csv: no column 'record_id'"),
    ],
)
def test_damaged_folders(checkpoint, data, tmp_path, damage, message):
    out = embed(checkpoint, tmp_path, data)
    damage(out)
    assert message in error_of("embed", "--from", out, "--umap")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--color", "sex"], "--color: needs a map; add --umap"),
        (["--umap", "--table", "t.csv"], "--table t.csv: choose one of its columns with --color"),
        (["--umap", "--table", "t.csv", "--color", "sex"], "t.csv: no such file"),
        (["--index", "known", "--per", "segment"], "--index: compares whole recordings; leave --per out"),
        (["--index", "known", "--neighbours", "0"], "--neighbours 0: give at least 1"),
        (["--index", "known"], "known/embedding.json: no such file"),
        (["--from", "known", "--umap"], "--from known: no model runs; leave CKPT and FILE out"),
        (["--layer", "7"], "layer 7: the model has layers 1 to 2"),
    ],
)
def test_options_that_do_not_fit(checkpoint, data, tmp_path, options, message):
    """Said before the model runs."""
    assert message in error_of("embed", checkpoint, data, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_groups_of_rows_do_not_depend_on_parts(size):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    expected = [rows[first : first + size] for first in range(0, 10, size)]
    for cuts in ([], [4], [1, 2, 9], [3, 3, 6]):
        found = list(embeddings._groups(iter(np.split(rows, cuts)), size))
        assert [len(group) for group in found] == [len(group) for group in expected]
        np.testing.assert_array_equal(np.concatenate(found), rows)
