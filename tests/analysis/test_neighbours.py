"""Nearest neighbours equal a naive search, and only embeddings of one model are compared."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import write_shards
from made_up_checkpoints import saved_checkpoint
from running import mistake_of

import fairseq_signals_ext
from fairseq_signals_ext.analysis import neighbours
from fairseq_signals_ext.analysis.embeddings_folder import Embeddings
from fairseq_signals_ext.analysis.neighbours import KnownRecording, NeighbourIndex, open_index
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.export import export


def made_up_index(vectors, record_ids=None, metric="cosine", rows=None):
    rows = np.ones(len(vectors), int) if rows is None else np.asarray(rows)
    record_ids = [f"r{number}" for number in range(len(rows))] if record_ids is None else record_ids
    files = [f"{number}.hea" for number in range(len(rows))]
    table = pd.DataFrame({"record_id": record_ids, "file": files, "first_row": np.cumsum(rows) - rows, "rows": rows})
    return NeighbourIndex(Embeddings(None, {"per": "recording", "layer": None}, vectors, table), metric)


def naive(vectors, known, metric):
    """All distances, one by one in float64."""
    a, b = vectors.astype(np.float64), known.astype(np.float64)
    if metric == "euclidean":
        return np.array([[np.sqrt(((x - y) ** 2).sum()) for y in b] for x in a])
    return np.array([[1 - x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5), st.integers(1, 8), st.sampled_from([3, 2**14]))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_as_a_naive_search(metric, seed, known_rows, queries, k, piece_rows):
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(known_rows, 4)).astype(np.float32)
    vectors = rng.normal(size=(queries, 4)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_PIECE_ROWS", piece_rows)
        distances, rows = made_up_index(known, metric=metric).query(vectors, k)
    expected = naive(vectors, known, metric)
    assert distances.shape == rows.shape == (queries, min(k, known_rows))
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :k], atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), distances, atol=2e-6)
    assert all(len(set(one)) == len(one) for one in rows.tolist())


def test_a_recording_is_not_its_own_neighbour():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)
    # the second has two rows, and the same record id as the fourth, so the id identifies neither
    index = made_up_index(vectors, ["a", "b", "c", "b", "d"], rows=[1, 2, 1, 1, 1])
    given = [("c", "elsewhere.hea"), ("b", "elsewhere.hea"), ("x", "1.hea"), ("b", "3.hea"), ("x", "x.hea")]
    own = [KnownRecording(*one) for one in given]
    distances, rows = index.query(vectors[[3] * 5], 6, own)
    everything = [0, 1, 2, 3, 4, 5]
    expected = [[-1, 0, 1, 2, 4, 5], everything, [-1, -1, 0, 3, 4, 5], [-1, 0, 1, 2, 3, 5], everything]
    assert [sorted(one) for one in rows.tolist()] == expected
    assert (np.isinf(distances) == (rows == -1)).all()
    assert index.facts([0, 2, 4]) == [KnownRecording(*one) for one in (("a", "0.hea"), ("b", "1.hea"), ("b", "3.hea"))]


def test_one_vector_and_wrong_ones():
    index = made_up_index(np.eye(3, dtype=np.float32))
    distances, rows = index.query(np.array([0, 2, 0]), 1)
    np.testing.assert_allclose(distances, [[0]], atol=1e-7)
    assert rows.tolist() == [[1]] and len(index) == 3
    for vectors, k, message in (
        (np.zeros(4), 1, "their shape is 1 x 4; the index has 3 dimensions"),
        (np.full(3, np.nan), 1, "not finite"),
        (np.zeros(3), 0, "0 neighbours: ask for at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            index.query(vectors, k)
    with pytest.raises(UserError, match="metric 'taxi': use one of cosine, euclidean"):
        made_up_index(np.eye(3), metric="taxi")


def test_vectors_stay_in_their_file(tmp_path):
    """Only a piece of the map is handed on, and it is no copy."""
    np.save(tmp_path / "known.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    index = made_up_index(np.load(tmp_path / "known.npy", mmap_mode="r"))
    assert isinstance(index.embeddings.vectors, np.memmap)
    assert index.query(index.embeddings.vectors[7], 1)[1].tolist() == [[7]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a model, data and its embeddings."""
    folder = tmp_path_factory.mktemp("run")
    saved_checkpoint(folder / "model.pt")
    write_shards(folder, [2600, 5000, 2500, 3000, 2600, 2700], split="all")
    main(["embed", str(folder / "model.pt"), str(folder / "all.tsv"), "--out", str(folder / "known")])
    return folder


def error_of(*arguments):
    return mistake_of(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("known", ["known", "itself"])
def test_table_of_neighbours(run, tmp_path, known):
    index = tmp_path if known == "itself" else run / "known"
    given = [run / "model.pt", run / "all.tsv", "--out", tmp_path, "--index", index, "--neighbours", 3]
    assert main(["embed", *map(str, given)]) == 0
    table = pd.read_csv(tmp_path / "neighbours.csv")
    vectors, facts = np.load(run / "known" / "embeddings.npy"), pd.read_csv(run / "known" / "embeddings.csv")
    expected = naive(vectors, vectors, "cosine")
    np.fill_diagonal(expected, np.inf)
    assert table["rank"].tolist() == [1, 2, 3] * 6
    assert table["file"].tolist() == facts["file"].repeat(3).tolist()
    nearest = np.argsort(expected, axis=1)[:, :3]
    assert table["neighbour_file"].tolist() == facts["file"][nearest.ravel()].tolist()
    assert table["neighbour_record_id"].tolist() == facts["record_id"][nearest.ravel()].tolist()
    np.testing.assert_allclose(table["distance"], np.sort(expected, axis=1)[:, :3].ravel(), atol=2e-6)


def test_afterwards_without_a_model(run, tmp_path):
    given = ["embed", "--from", run / "known", "--out", tmp_path / "out", "--index", run / "known"]
    assert main(list(map(str, given))) == 0
    assert len(pd.read_csv(tmp_path / "out" / "neighbours.csv")) == 6 * 5
    assert "neighbours.csv: exists already" in error_of(*given)


def test_only_of_the_same_model(run, tmp_path):
    state = saved_checkpoint(tmp_path / "other.pt", encoder_layers=1)
    given = ["embed", state, run / "all.tsv", "--out", tmp_path / "out", "--index", run / "known"]
    message = f"{run / 'known'}: its embeddings belong to another model ({run / 'model.pt'}, not {state}); embed its"
    assert message in error_of(*given)
    assert not (tmp_path / "out").exists()
    given[1] = run / "model.pt"
    assert "its embeddings have layer None, these 1; embed its" in error_of(*given, "--layer", 1)
    smaller = saved_checkpoint(tmp_path / "smaller.pt", encoder_embed_dim=16)
    given[1] = smaller
    assert "its embeddings have dimension 32, these 16; embed its" in error_of(*given)


def test_copies_and_exports_are_the_same_model(run, tmp_path):
    index = open_index(run / "known")
    shutil.copy(run / "model.pt", tmp_path / "copy.pt")
    index.check_model(fairseq_signals_ext.load(tmp_path / "copy.pt"))
    index.check_model(fairseq_signals_ext.load(tmp_path / "copy.pt", bf16=True))
    index.check_model(fairseq_signals_ext.load(export(run / "model.pt", "onnx", tmp_path / "onnx").folder))
    assert (index.per, index.layer) == ("recording", None)


def test_segments_have_no_table_of_neighbours(run, tmp_path):
    given = ["embed", run / "model.pt", run / "all.tsv", "--out", tmp_path, "--per", "segment"]
    assert main(list(map(str, given))) == 0
    index = open_index(tmp_path)
    vectors = index.embeddings.vectors
    assert index.facts(index.query(vectors[1], 1)[1][0])[0].file.endswith("00000.npy#1")
    message = error_of("embed", "--from", tmp_path, "--index", tmp_path)
    assert "its embeddings are per segment; embed per recording" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["known", "given", "map", "probe"])
def test_values_that_are_no_numbers_are_one_line(run, tmp_path, value, which):
    for name in ("known", "given"):
        shutil.copytree(run / "known", tmp_path / name)
    damaged = tmp_path / ("given" if which == "map" else "known" if which == "probe" else which)
    if which == "probe":
        facts = json.loads((damaged / "embedding.json").read_text())
        facts["probe"][0] = value
        (damaged / "embedding.json").write_text(json.dumps(facts))
    else:
        vectors = np.load(damaged / "embeddings.npy")
        vectors[-1, 0] = value
        np.save(damaged / "embeddings.npy", vectors)
    wanted = ["--umap"] if which == "map" else ["--index", tmp_path / "known"]
    message = error_of("embed", "--from", tmp_path / "given", "--out", tmp_path / "out", *wanted)
    assert message.startswith(f"error: {damaged}") and "\n" not in message
