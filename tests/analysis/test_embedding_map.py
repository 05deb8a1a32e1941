"""The map: places, colours from tables of all kinds, and the same picture each time."""

import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import write_shards
from made_up_checkpoints import saved_checkpoint
from made_up_tables import write_table

from fairseq_signals_ext.analysis import map_drawing
from fairseq_signals_ext.analysis.embeddings_folder import Embeddings
from fairseq_signals_ext.analysis.map import make_map, project
from fairseq_signals_ext.analysis.map_drawing import Colouring, check_column, draw_map, values_for
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common import palette
from fairseq_signals_ext.common.errors import UserError


def made_up_embeddings(count, folder=Path("nowhere"), seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    names = [f"{number:03d}" for number in range(count)]
    columns = {"record_id": names, "file": [f"ecgs/{name}.hea" for name in names], "seconds": np.arange(count) + 0.5}
    table = pd.DataFrame({**columns, "first_row": np.arange(count), "rows": 1})
    return Embeddings(folder, {}, vectors, table)


@pytest.fixture
def fake_umap(monkeypatch):
    """Its places are the first two dimensions; holds the options it was given."""
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, vectors):
            found = np.array(vectors[:, :2])
            found[3] = np.nan
            return found

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "umap", module)
    return asked


def test_few_vectors_by_principal_components():
    vectors = np.random.default_rng(0).normal(size=(44, 8)).astype(np.float32) * [5, 3, 1, 1, 1, 1, 1, 1]
    points, method = project(vectors)
    centred = vectors - vectors.mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)
    scores = expected[0][:, :2] * expected[1][:2]
    assert method == "PCA"
    np.testing.assert_allclose(np.abs(points), np.abs(scores), atol=1e-4)
    for rows, size in ((1, 8), (2, 8), (5, 1), (1, 1)):
        points, _ = project(vectors[:rows, :size])
        assert points.shape == (rows, 2) and np.isfinite(points).all()


def test_umap_gets_the_same_options_each_time(fake_umap):
    vectors = made_up_embeddings(45).vectors
    points, method = project(vectors)
    assert method == "UMAP"
    assert fake_umap == [{"n_neighbors": 15, "metric": "cosine", "random_state": 1, "n_jobs": 1}]
    np.testing.assert_array_equal(np.delete(points, 3, 0), np.delete(vectors[:, :2], 3, 0))
    # vectors that UMAP leaves out are put in the middle
    np.testing.assert_allclose(points[3], np.delete(vectors[:, :2], 3, 0).mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_real_umap_finds_groups_twice_in_the_same_places():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8, dtype=np.float32) * 4, 40, axis=0)
    vectors = centres + rng.normal(size=centres.shape).astype(np.float32) * 0.3
    points, _ = project(vectors)
    np.testing.assert_array_equal(project(vectors)[0], points)
    middles = points.reshape(3, 40, 2).mean(axis=1)
    nearest = np.linalg.norm(points[:, None] - middles, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.repeat(range(3), 40))


def test_without_umap(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    make_map(made_up_embeddings(44), tmp_path)
    with pytest.raises(ModuleNotFoundError) as error:
        make_map(made_up_embeddings(45), tmp_path)
    assert error.value.name == "umap"


def test_another_colour_uses_the_places_again(fake_umap, tmp_path):
    embeddings = made_up_embeddings(50, tmp_path)
    picture = make_map(embeddings, tmp_path)
    plain = picture.read_bytes()
    places = pd.read_csv(tmp_path / "map.csv")
    assert places.columns.tolist() == ["record_id", "file", "row", "x", "y"]
    make_map(embeddings, tmp_path, "seconds")
    assert len(fake_umap) == 1 and picture.read_bytes() != plain
    coloured = pd.read_csv(tmp_path / "map.csv")
    pd.testing.assert_frame_equal(coloured[places.columns], places)
    assert coloured["value"].tolist() == (np.arange(50) + 0.5).tolist()
    make_map(embeddings, tmp_path)
    assert picture.read_bytes() == plain
    (tmp_path / "map.csv").write_text("x,y\n1,2\n")
    make_map(embeddings, tmp_path)
    assert len(fake_umap) == 2 and picture.read_bytes() == plain


def written(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_values_are_joined(tmp_path, monkeypatch):
    recordings = made_up_embeddings(3).recordings
    monkeypatch.chdir(tmp_path)
    by_id = written(tmp_path / "id.csv", record_id=["002", "000", "9"], sex=["f", None, "m"])
    assert values_for(recordings, "sex", by_id).tolist() == ["", "", "f"]
    paths = [tmp_path / "ecgs" / "001.hea", "ecgs/../ecgs/002.hea"]
    by_file = written(tmp_path / "file.csv", file=paths, record_id=["000", "000"], sex=["f", "m"])
    assert values_for(recordings, "sex", by_file).tolist() == ["", "f", "m"]
    parquet = tmp_path / "t.parquet"
    pd.DataFrame({"record_id": ["000", "001"], "age": [70.5, np.nan]}).to_parquet(parquet)
    assert values_for(recordings, "age", parquet).tolist() == ["70.5", "", ""]
    assert values_for(recordings, "seconds").tolist() == ["0.5", "1.5", "2.5"]
    twice = written(tmp_path / "twice.csv", record_id=["000", "000"], sex=["f", "f"])
    assert values_for(recordings, "sex", twice).tolist() == ["f", "", ""]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"record_id": ["000", "000"], "sex": ["f", "m"]}, "t.csv: line 3: another sex of record_id '000'"),
        ({"record_id": ["9"], "sex": ["f"]}, "t.csv: none of its record_id is of the embedded recordings, such as '00"),
        (
            {"patient": ["000"], "sex": ["f"]},
            "t.csv: it has none of the columns file, record_id, idx; its columns are pat",
        ),
        ({"idx": [0], "sex": ["f"]}, "t.csv: has idx, but is not DIR/labels/NAME/labels.csv; add a column"),
        ({"record_id": ["000"]}, "t.csv: no column 'sex'; its columns are record_id"),
    ],
)
def test_tables_that_cannot_be_joined(tmp_path, columns, message):
    table = written(tmp_path / "t.csv", **columns)
    with pytest.raises(UserError, match=message):
        values_for(made_up_embeddings(3).recordings, "sex", table)


def test_a_wrong_table_is_reported_before_embeddings_are_computed(tmp_path):
    with pytest.raises(UserError, match="none of the columns file, record_id, idx"):
        check_column(written(tmp_path / "t.csv", patient=["1"], sex=["f"]), "sex")
    with pytest.raises(UserError, match="no column 'sex' beside the embeddings"):
        values_for(made_up_embeddings(3).recordings, "sex")


def test_labels_and_table_of_a_prepared_folder(tmp_path, monkeypatch):
    """From the checkpoint to the map, with the idx of the folder's own labels."""
    monkeypatch.chdir(tmp_path)
    write_shards(Path("data"), [2600] * 6, split="all")
    # gaps, where files were rejected
    sexes = ["female", "male", None, "male", "male", "female"]
    write_table(Path("data"), 6, idx=[0, 1, 2, 5, 8, 9], samples=[2600] * 6, sex=sexes)
    labels = Path("data") / "labels" / "l"
    labels.mkdir(parents=True)
    written(labels / "labels.csv", idx=[9, 0, 5], AF=[1, 0, 1])
    checkpoint = saved_checkpoint(tmp_path / "model.pt")
    table = ["--table", "data/labels/l/labels.csv", "--color", "AF"]
    assert main(["embed", str(checkpoint), "data/all.tsv", "--out", "out", "--umap", *table]) == 0
    found = pd.read_csv("out/map.csv", dtype=str, keep_default_na=False)
    assert found["value"].tolist() == ["0", "", "", "1", "", "1"]
    table = ["--table", str(tmp_path / "data" / "recordings.parquet"), "--color", "sex"]
    assert main(["embed", "--from", "out", "--out", "by_sex", "--umap", *table]) == 0
    found = pd.read_csv("by_sex/map.csv", dtype=str, keep_default_na=False)
    assert found["value"].tolist() == ["female", "male", "", "male", "male", "female"]


def legend_of(monkeypatch, tmp_path, values):
    """Texts of the legend, and whether there is a scale of numbers."""
    figures = []
    monkeypatch.setattr(map_drawing, "save_png", lambda figure, path: figures.append(figure))
    points = np.random.default_rng(0).normal(size=(len(values), 2))
    draw_map(points, "PCA", tmp_path / "map.png", Colouring("label", np.array(values, object)))
    axes = figures[0].axes
    legend = axes[0].get_legend()
    assert sum(len(drawn.get_offsets()) for drawn in axes[0].collections) == len(values)
    return [text.get_text() for text in legend.get_texts()] if legend else [], len(axes) == 2


@pytest.mark.parametrize(
    ("values", "texts", "is_scale"),
    [
        (["b", "a", "b", ""], ["b (2)", "a (1)", "unknown (1)"], False),
        (["0", "1", "1"], ["1 (2)", "0 (1)"], False),
        (["0.5", "1", ""], ["unknown (1)"], True),
        ([str(number) for number in range(11)], [], True),
        ([str(number) for number in range(10)], [f"{number} (1)" for number in range(10)], False),
        (list("abcdefghij"), [f"{name} (1)" for name in "abcdefghij"], False),
        (list("aabcdefghijk"), ["a (2)", *(f"{name} (1)" for name in "bcdefghi"), "other (2)"], False),
        (["1", "nan", "x $y$"], ["1 (1)", "nan (1)", "x $y$ (1)"], False),
        (["", ""], ["unknown (2)"], False),
    ],
)
def test_colours(monkeypatch, tmp_path, values, texts, is_scale):
    assert legend_of(monkeypatch, tmp_path, values) == (texts, is_scale)


def test_colours_are_different():
    colours = [*palette.CATEGORIES, map_drawing._OTHER_COLOUR, map_drawing._UNKNOWN_COLOUR]
    assert len({colour.lower() for colour in colours}) == 12
