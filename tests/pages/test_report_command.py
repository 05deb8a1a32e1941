"""The command `report`: a page per recording, and unusable files in rejected.csv."""

import csv

import numpy as np
import pytest
from made_up import made_up_counts, write_mat, write_shards
from made_up_checkpoints import saved_checkpoint
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint.pt")


def npy(path, seconds=4, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, made_up_counts(np.random.default_rng(seed), 500 * seconds))
    return str(path)


def rejected(folder):
    with open(folder / "rejected.csv", newline="") as file:
        return list(csv.DictReader(file))


def report(checkpoint, *arguments):
    fixed = ["--device", "cpu", "--input-rate", "500", "--input-unit", "uV"]
    return main(["report", str(checkpoint), *map(str, arguments), *fixed])


def test_one_bad_file_stops_nothing(checkpoint, tmp_path, capsys):
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"nothing")
    files = [npy(tmp_path / "x" / "Same.npy"), str(bad), npy(tmp_path / "y" / "same.npy", seed=1)]
    out = tmp_path / "out"
    assert report(checkpoint, *files, "--out", out) == 1
    assert sorted(path.name for path in out.iterdir()) == [".finished.json", "Same.html", "rejected.csv", "same-2.html"]
    (row,) = rejected(out)
    assert row["file"] == str(bad) and row["reason"]
    assert "2 reports" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"Same.html: exists already; .*--overwrite"):
        report(checkpoint, files[0], "--out", out)
    assert report(checkpoint, files[0], "--out", out, "--overwrite") == 0


def test_nothing_that_goes_wrong_with_a_file_stops_the_rest(checkpoint, tmp_path, monkeypatch):
    from fairseq_signals_ext.pages import rendering

    atomic = rendering.atomic

    def failing(path):
        if path.name == "a.html":
            raise ZeroDivisionError("of nothing")
        return atomic(path)

    monkeypatch.setattr(rendering, "atomic", failing)
    files = [npy(tmp_path / f"{name}.npy") for name in "ab"]
    assert report(checkpoint, *files, "--out", tmp_path / "out", "--saliency", "none") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".finished.json", "b.html", "rejected.csv"]
    reason = "cannot be used (ZeroDivisionError: of nothing); get it again"
    assert rejected(tmp_path / "out") == [{"file": files[0], "reason": reason}]


def test_anonymous_pages_are_numbered(checkpoint, tmp_path):
    planted = npy(tmp_path / "Xq7Zplanted.npy")
    other = npy(tmp_path / "other.npy", seed=1)
    assert report(checkpoint, planted, other, "--anonymous", "--out", tmp_path / "out", "--saliency", "none") == 0
    pages = sorted((tmp_path / "out").glob("*.html"))
    assert [page.name for page in pages] == ["report-1.html", "report-2.html"]
    assert not any("Xq7Zplanted" in page.read_text() or "other" in page.read_text() for page in pages)


def test_ensemble_index_and_saliency(checkpoint, tmp_path):
    known = [npy(tmp_path / f"known{seed}.npy", seed=seed) for seed in range(3)]
    where = ["--device", "cpu", "--input-rate", "500", "--input-unit", "uV"]
    assert main(["embed", str(checkpoint), *known, "--out", str(tmp_path / "index"), *where]) == 0
    arguments = ["--saliency", "gradient", "--label", "B", "--index", tmp_path / "index", "--neighbours", "5"]
    out = tmp_path / "out"
    assert report(checkpoint, known[0], "--out", out, *arguments, "--ensemble", checkpoint) == 0
    page = (out / "known0.html").read_text()
    assert "gradient of B" in page and "means over 2 models" in page
    # the recording itself is not its own neighbour
    assert "known1.npy" in page and "known2.npy" in page and page.count("known0.npy") == 1


def test_neighbours_of_a_prepared_folder_have_their_files_and_labels(checkpoint, tmp_path):
    """What tables say of recordings beside their names, too: it is known of files and of prepared folders."""
    for seed, name in enumerate("abc"):
        write_wfdb(tmp_path / "records" / name, made_up_counts(np.random.default_rng(seed), 3000))
    (tmp_path / "t.csv").write_text("file,patient,start_time\na.hea,p1,2020-02-01T10:00\nb.hea,p2,\nc.hea,,\n")
    (tmp_path / "l.csv").write_text("record_id,AF,CD\na,1,1\nb,0,0\n")
    data, where = tmp_path / "data", ["--device", "cpu"]
    assert (
        main(["prepare", "wfdb", str(tmp_path / "records"), "--out", str(data), "--table", str(tmp_path / "t.csv")])
        == 0
    )
    assert main(["label", str(data), "--name", "l", "--table", str(tmp_path / "l.csv")]) == 0
    index, labels = tmp_path / "index", ["--known-labels", str(data / "labels" / "l")]
    assert main(["embed", str(checkpoint), str(data), "--out", str(index), *labels, *where]) == 0
    assert main(["predict", str(checkpoint), str(data), "--out", str(tmp_path / "predicted"), *where]) == 0
    known = [
        *(["0", "records", "a.hea", "p1", "2020-02-01T10:00:00"], ["1", "records", "b.hea", "p2", ""]),
        ["2", "records", "c.hea", "", ""],
    ]
    names = ["idx", "source", "source_file", "patient", "start_time"]
    for path in (index / "embeddings.csv", tmp_path / "predicted" / "predictions.csv"):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [[row[name] for name in names] for row in rows] == known
    with open(index / "embeddings.csv", newline="") as file:
        assert [row["labels"] for row in csv.DictReader(file)] == ["AF; CD", "none", ""]
    page = ["--saliency", "none", "--index", index]
    given = npy(tmp_path / "new.npy", seed=5)
    assert report(checkpoint, given, "--out", tmp_path / "out", *page) == 0
    html = (tmp_path / "out" / "new.html").read_text()
    assert all(f'<td class="text">{text}</td>' in html for text in ("a.hea", "b.hea", "AF; CD", "none", "unknown"))
    # the recording itself is known by the name of its file
    assert report(checkpoint, tmp_path / "records" / "a.hea", "--out", tmp_path / "own", *page) == 0
    assert "AF; CD" not in (tmp_path / "own" / "a.html").read_text()
    assert report(checkpoint, given, "--anonymous", "--out", tmp_path / "hidden", *page) == 0
    html = (tmp_path / "hidden" / "report-1.html").read_text()
    assert "AF; CD" in html and ".hea" not in html
    with pytest.raises(SystemExit, match="labels are of a prepared folder, but none of the recordings is"):
        main(["embed", str(checkpoint), given, "--out", str(tmp_path / "no"), *labels, *where, "--input-rate", "500"])


def test_the_model_of_an_index_is_checked_once_for_all_pages(checkpoint, tmp_path, monkeypatch):
    from fairseq_signals_ext.analysis import neighbours

    files = [npy(tmp_path / f"known{seed}.npy", seed=seed) for seed in range(3)]
    where = ["--device", "cpu", "--input-rate", "500", "--input-unit", "uV"]
    assert main(["embed", str(checkpoint), *files, "--out", str(tmp_path / "index"), *where]) == 0
    facts, asked = neighbours.model_facts, []
    monkeypatch.setattr(neighbours, "model_facts", lambda *of: asked.append(of) or facts(*of))
    arguments = ["--saliency", "none", "--index", tmp_path / "index"]
    assert report(checkpoint, *files, "--out", tmp_path / "out", *arguments) == 0
    assert len(asked) == 1 and len(list((tmp_path / "out").glob("*.html"))) == 3


def test_prepared_folders_are_read_and_standardised_files_rejected(checkpoint, tmp_path):
    write_shards(tmp_path / "data", [2000], split="all")
    write_mat(tmp_path / "mat" / "a.mat", np.random.default_rng(0).normal(size=(12, 2500)), 0)
    (tmp_path / "mat" / "train.tsv").write_text(f"{tmp_path / 'mat'}\na.mat\t2500\n")
    given = [tmp_path / "data" / "all.tsv", tmp_path / "mat" / "train.tsv"]
    assert report(checkpoint, *given, "--out", tmp_path / "out", "--saliency", "none") == 1
    (page,) = (tmp_path / "out").glob("*.html")
    assert "00000.npy#0" in page.read_text()
    (row,) = rejected(tmp_path / "out")
    assert "is standardised, so it cannot be drawn in mV" in row["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "A"], "attention is the same for all labels; leave the label out, or add --saliency gradient"),
        (["--label", "D", "--saliency", "gradient"], "label 'D'"),
        (["--layer", "7"], "layer 7"),
        (["--saliency", "guess"], "method 'guess'"),
        (["--calibration", "nowhere"], "nowhere"),
        (["--index", "nowhere"], "nowhere"),
        (["--neighbours", "0"], "ask for at least 1"),
    ],
)
def test_wrong_options_are_reported_before_any_work(checkpoint, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        report(checkpoint, npy(tmp_path / "a.npy"), "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_formats_have_pages(ecg_data, golden_folder, tmp_path):
    files = sorted((ecg_data / "formats").iterdir())
    out = ["--out", str(tmp_path), "--device", "cpu", "--saliency", "none"]
    # the lead of the first has no standard name
    golden = str(golden_folder / "tiny_finetuned.pt")
    assert main(["report", golden, *map(str, files), *out, "--labels", "ecg-fm"]) == 1
    assert [row["file"].rsplit("/", 1)[1] for row in rejected(tmp_path)] == ["single_lead_300hz.edf", "unsupported.xml"]
    assert len(list(tmp_path.glob("*.html"))) == len(files) - 2
