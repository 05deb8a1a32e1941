"""`fairseq-signals-ext predict`: files of any kind and condition -> a row each, in one table or the other."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_counts, write_shards
from made_up_checkpoints import LABELS, saved_checkpoint
from made_up_wfdb import write_wfdb

import fairseq_signals_ext
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION
from fairseq_signals_ext.inference import ensemble
from fairseq_signals_ext.readers import read_ecg

RATE = ["--input-rate", "500"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(saved_checkpoint(tmp_path_factory.mktemp("model") / "a.pt"))


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def write_npy(path, seed=0, samples=5000, leads=12):
    np.save(path, made_up_counts(np.random.default_rng(seed), samples, leads) / 1000)
    return path


def test_output_files(checkpoint, tmp_path, capsys):
    files = [write_npy(tmp_path / f"{number}.npy", number) for number in range(3)]
    assert predict(checkpoint, *files, "--out", tmp_path / "out", "--segments", "--batch-size", 4, *RATE) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'predictions.csv'}: 3 recordings\n"
    model = fairseq_signals_ext.load(checkpoint)
    for file, row in zip(files, rows(tmp_path / "out" / "predictions.csv")):
        expected = model.predict(file, 500)
        found = [float(row[f"probability_{name}"]) for name in LABELS]
        np.testing.assert_allclose(found, expected.scores, rtol=1e-5)
        assert [row[f"positive_{name}"] for name in LABELS] == [str(int(one)) for one in expected.positive]
        assert {name: row[name] for name in list(row)[:12]} == {
            **{"record_id": file.stem, "file": str(file), "idx": "", "source": "", "source_file": ""},
            **{"patient": "", "start_time": "", "seconds": "10", "sample_rate": "500", "segments": "2"},
            **{"missing_leads": "", "flags": ""},
        }
    segments = rows(tmp_path / "out" / "segments.csv")
    assert [(row["file"], row["segment"], row["start"]) for row in segments[:3]] == [
        *((str(files[0]), str(number), str(5 * number)) for number in (0, 1)),
        (str(files[1]), "0", "0"),
    ]
    assert rows(tmp_path / "out" / "rejected.csv") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".finished.json",
        "predictions.csv",
        "rejected.csv",
        "segments.csv",
    ]


def test_golden_classifier_on_every_format(ecg_data, golden_folder, tmp_path):
    """What the labels need for a recording is ECG-FM's: the largest of some, the mean of the others."""
    golden = golden_folder / "tiny_finetuned.pt"
    options = ["--labels", "ecg-fm", "--segments", "--format", "parquet", "--input-leads", "II"]
    assert predict(golden, ecg_data / "formats", "--out", tmp_path, *options) == 1
    table = pd.read_parquet(tmp_path / "predictions.parquet").set_index("record_id")
    assert sorted(table.index) == sorted(
        path.stem for path in (ecg_data / "formats").iterdir() if path.stem != "unsupported"
    )
    (rejected,) = rows(tmp_path / "rejected.csv")
    assert rejected["file"].endswith("unsupported.xml") and "export it in another format" in rejected["reason"]
    assert table.loc["single_lead_300hz", "flags"][-1] == "filled"
    assert len(table.loc["single_lead_300hz", "missing_leads"]) == 11
    columns = [f"probability_{name}" for name in ECG_FM_AGGREGATION]
    of_segments = pd.read_parquet(tmp_path / "segments.parquet").groupby("record_id")[columns]
    for name, way in ECG_FM_AGGREGATION.items():
        column = f"probability_{name}"
        np.testing.assert_allclose(table[column].sort_index(), of_segments.agg(way)[column], atol=1e-12)
    assert not [column for column in table if column.startswith("positive_")]


def test_golden_classifier_on_every_kind_of_wfdb_record(each_kind, golden_folder, tmp_path):
    headers = sorted(each_kind.rglob("*.hea"))
    assert predict(golden_folder / "tiny_finetuned.pt", *headers, "--labels", "ecg-fm", "--out", tmp_path) == 0
    found = rows(tmp_path / "predictions.csv")
    assert [row["file"] for row in found] == [str(header) for header in headers] and len(found) > 200
    assert all(0 < float(row[f"probability_{name}"]) < 1 for row in found for name in ECG_FM_AGGREGATION)
    assert all(row["segments"] == str(max(1, int(float(row["seconds"]) / 5))) for row in found)


@pytest.mark.slow
def test_a_day_at_2000_hz(golden_folder, tmp_path):
    """Two leads of 24 h: 0.7 GB; all of it is used in segments of 5 s."""
    minute, minutes = 2000 * 60, 24 * 60
    counts = np.repeat(made_up_counts(np.random.default_rng(0), minute // 4, 2), 4, axis=1).T.astype("<i2")
    with open(tmp_path / "day.dat", "wb") as file:
        for _ in range(minutes):
            file.write(counts.tobytes())
    signals = "".join(f"day.dat 16 1000/mV 16 0 0 0 0 {lead}\n" for lead in ("I", "II"))
    (tmp_path / "day.hea").write_text(f"day 2 2000 {minute * minutes}\n{signals}")
    options = ["--labels", "ecg-fm", "--out", tmp_path / "out"]
    assert predict(golden_folder / "tiny_finetuned.pt", tmp_path / "day.hea", *options) == 0
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert (row["seconds"], row["segments"], row["missing_leads"]) == ("86400", "17280", "V1 V2 V3 V4 V5 V6")
    assert "filled" in row["flags"]


def write_dicom(path, signal, rate, like):
    """The same waveform in a DICOM file made of another."""
    import pydicom

    dataset = pydicom.dcmread(like)
    group = dataset.WaveformSequence[0]
    scale = 0.001
    group.SamplingFrequency, group.NumberOfWaveformSamples = rate, signal.shape[1]
    for definition in group.ChannelDefinitionSequence:
        definition.ChannelSensitivity, definition.ChannelSensitivityCorrectionFactor = scale, 1
        definition.ChannelSensitivityUnitsSequence[0].CodeValue = "mV"
        definition.ChannelBaseline = 0
    group.WaveformData = np.ascontiguousarray(np.rint(signal / scale).T.astype("<i2")).tobytes()
    del dataset.WaveformSequence[1:]
    dataset.save_as(path)


def test_metadata_options_differ_from_defaults(checkpoint, tmp_path):
    """Twelve rows in an unusual order, in uV; the file contains neither order nor unit."""
    signal = made_up_counts(np.random.default_rng(0), 5000) / 1000
    order = [*range(6, 12), *range(6)]
    np.save(tmp_path / "standard.npy", signal)
    np.save(tmp_path / "own.npy", signal[order] * 1000)
    assert predict(checkpoint, tmp_path / "standard.npy", "--out", tmp_path / "a", *RATE) == 0
    leads = "V1,V2,V3,V4,V5,V6,I,II,III,aVR,aVL,aVF"
    said = ["--input-leads", leads, "--input-unit", "uV"]
    assert predict(checkpoint, tmp_path / "own.npy", "--out", tmp_path / "b", *RATE, *said) == 0
    (expected,), (found,) = (rows(tmp_path / name / "predictions.csv") for name in "ab")
    for label in LABELS:
        assert float(found[f"probability_{label}"]) == pytest.approx(float(expected[f"probability_{label}"]), abs=1e-5)
    assert found["flags"] == ""


def test_the_same_ecg_in_four_formats(ecg_data, golden_folder, tmp_path):
    dicom = ecg_data / "formats" / "dicom_12lead_1000hz.dcm"
    recording = read_ecg(dicom)
    signal, rate = recording.signal, recording.sample_rate
    names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    write_dicom(tmp_path / "own.dcm", signal, rate, dicom)
    write_wfdb(tmp_path / "ecg", leads=names[::-1], rate=rate, gain=None, p_signal=signal.T[:, ::-1])
    np.save(tmp_path / "ecg.npy", signal.astype(np.float32))
    pd.DataFrame(signal.T, columns=names).to_csv(tmp_path / "ecg.csv", index=False)
    files = [dicom, *(tmp_path / name for name in ("own.dcm", "ecg.hea", "ecg.npy", "ecg.csv"))]
    options = ["--labels", "ecg-fm", "--out", tmp_path / "out", "--input-rate", f"{rate:g}", "--input-unit", "mV"]
    assert predict(golden_folder / "tiny_finetuned.pt", *files, *options) == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").filter(like="probability_")
    assert table.shape == (5, 17) and table.std(axis=1).min() > 0.1
    assert (table.max() - table.min()).max() < 1e-3


def write_conditions(folder):
    """Files with common problems, and for each the expected flags or message."""
    good = made_up_counts(np.random.default_rng(0), 5000) / 1000
    invalid, clipped, one_constant = good.copy(), good * 5, good.copy()
    invalid[3, 100:200] = np.nan
    clipped[1] = np.clip(clipped[1], -0.5, 1.5) + np.where(np.arange(5000) // 50 % 2, 1.0, 0)
    one_constant[7] = 0.25
    arrays = {
        "good": (good, ""),
        "nan": (invalid, "nan"),
        "constant": (one_constant, "constant"),
        "short": (good[:, :400], "short"),
        "small": (good / 1000, "amplitude"),
        "zeros": (np.zeros((12, 5000)), "its leads never change"),
        "all_nan": (np.full((12, 5000), np.nan), "all its samples are marked as missing"),
        "infinite": (np.where(np.arange(5000) == 7, np.inf, good), "it contains infinite values"),
        "not_mv": (good * 1e12, "which no ECG has"),
        "none": (np.zeros((12, 0)), ""),
        "one_sample": (good[:, :1], "its leads never change"),
    }
    for name, (array, _) in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "empty.npy").write_bytes(b"")
    (folder / "empty.hea").write_bytes(b"")
    (folder / "folder.npy").mkdir()
    content = (folder / "good.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(content[: len(content) // 2])
    (folder / "text.npy").write_bytes(b"this is no ECG\n" * 100)
    return {name: told for name, (_, told) in arrays.items()}


def test_every_condition_gives_a_row_here_or_there(checkpoint, tmp_path):
    told = write_conditions(tmp_path)
    (tmp_path / "folder.npy").rmdir()
    files = [*sorted(tmp_path.iterdir()), tmp_path / "no_such.npy"]
    assert predict(checkpoint, *files, "--out", tmp_path / "out", *RATE) == 1
    predictions = {row["record_id"]: row for row in rows(tmp_path / "out" / "predictions.csv")}
    rejected = {row["file"].split("/")[-1]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert len(predictions) + len(rejected) == len(files)
    assert {*predictions} == {"good", "nan", "constant", "short", "small"}
    for name, row in predictions.items():
        assert row["flags"] == told[name]
        assert all(0 < float(row[f"probability_{label}"]) < 1 for label in LABELS)
    for name in {*told} - {*predictions}:
        assert told[name] in rejected[f"{name}.npy"], name
    assert rejected["no_such.npy"] == "no such file; check the path"
    assert all(reason and "\n" not in reason for reason in rejected.values())


def test_truncated_real_files(ecg_data, checkpoint, tmp_path):
    """No format's reader ends a run, wherever a file was cut."""
    rng, files = np.random.default_rng(0), []
    for path in sorted((ecg_data / "formats").iterdir()):
        content = path.read_bytes()
        for cut in (0, 1, *rng.integers(2, len(content), 3)):
            files.append(tmp_path / f"{cut}-{path.name}")
            files[-1].write_bytes(content[:cut])
    predict(checkpoint, *files, "--out", tmp_path / "out")
    found = [row["file"] for name in ("predictions", "rejected") for row in rows(tmp_path / "out" / f"{name}.csv")]
    assert sorted(found) == sorted(map(str, files))


def test_an_interrupted_run_continues(checkpoint, tmp_path, monkeypatch, capsys):
    files = [write_npy(tmp_path / f"{number}.npy", number, 600) for number in range(9)]
    np.save(files[2], np.zeros((12, 600)))
    assert predict(checkpoint, *files, "--out", tmp_path / "whole", "--batch-size", 2, *RATE) == 1
    original = ensemble.Ensemble.predict_all

    def interrupted(*arguments):
        for number, found in enumerate(original(*arguments)):
            if number == 4:
                raise KeyboardInterrupt
            yield found

    broken = [checkpoint, *files, "--out", tmp_path / "broken", "--batch-size", 2, *RATE]
    monkeypatch.setattr(ensemble.Ensemble, "predict_all", interrupted)
    capsys.readouterr()
    assert predict(*broken) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; continue with --resume"
    settings = json.loads((tmp_path / "broken" / ".unfinished" / "settings.json").read_text())
    assert {*settings} >= {"checkpoint", "list of recordings"}
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="continue with --resume"):
        predict(*broken)
    with pytest.raises(SystemExit, match="had another list of recordings"):
        predict(checkpoint, files[0], *broken[1:], "--resume")
    assert predict(*broken, "--resume") == 1
    for name in ("predictions.csv", "rejected.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_manifest_ensemble_and_aggregation(checkpoint, tmp_path):
    write_shards(tmp_path, [5000, 7600, 500])
    second = saved_checkpoint(tmp_path / "b.pt", encoder_layers=1)
    options = ["--ensemble", second, "--aggregate", "max", "--out", tmp_path / "out", "--jobs", 1]
    assert predict(checkpoint, tmp_path / "train.tsv", *options) == 0
    models = [fairseq_signals_ext.load(path) for path in (checkpoint, second)]
    from fairseq_signals_ext.inference.inputs import find_inputs

    inputs = find_inputs([tmp_path / "train.tsv"])
    for number, row in enumerate(rows(tmp_path / "out" / "predictions.csv")):
        scores = [model.predict(inputs.recording(number)).segment_scores.max(axis=0) for model in models]
        np.testing.assert_allclose(
            [float(row[f"probability_{name}"]) for name in LABELS], np.mean(scores, 0), rtol=1e-5
        )
        assert (row["record_id"], row["file"]) == (f"idx {number}", inputs.name(number))


def test_tab_separated_ecgs_are_no_manifests(checkpoint, tmp_path):
    """Told apart by content; a manifest that cannot be used is rejected as a file is, and the others are run."""
    signal = made_up_counts(np.random.default_rng(0), 5000)
    names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    pd.DataFrame(signal.T, columns=names).to_csv(tmp_path / "twelve.tsv", sep="\t", index=False)
    pd.DataFrame(signal[:2].T, columns=names[:2]).to_csv(tmp_path / "two.tsv", sep="\t", index=False)
    write_shards(tmp_path, [5000, 700])
    (tmp_path / "damaged.tsv").write_text(".\nshards/00000.npy\t0\t5000\nno row\n")
    (tmp_path / "empty.tsv").write_text("")
    files = [tmp_path / f"{name}.tsv" for name in ("twelve", "damaged", "train", "no_such", "two", "empty")]
    options = ["--out", tmp_path / "out", "--input-unit", "uV", *RATE]
    assert predict(checkpoint, *files, *options) == 1
    found = [row["record_id"] for row in rows(tmp_path / "out" / "predictions.csv")]
    assert found == ["twelve", "idx 0", "idx 1", "two"]
    rejected = {row["file"].split("/")[-1]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert {*rejected} == {"damaged.tsv", "no_such.tsv", "empty.tsv"} and "line 3" in rejected["damaged.tsv"]
    with pytest.raises(SystemExit, match="line 3"):
        predict(checkpoint, tmp_path / "damaged.tsv", "--out", tmp_path / "other")


def test_the_folder_of_a_split(checkpoint, tmp_path):
    """All of its subsets, or one; parts of the training set would be twice there."""
    write_shards(tmp_path, [5000, 700, 5000, 700])
    root, *lines = (tmp_path / "train.tsv").read_text().splitlines(keepends=True)
    split = tmp_path / "splits" / "s"
    split.mkdir(parents=True)
    subsets = {"train-00000-of-00002": [0], "train-00001-of-00002": [1], "train_50": [0], "valid": [2], "test": [3]}
    for name, members in subsets.items():
        (split / f"{name}.tsv").write_text("../..\n" + "".join(lines[number] for number in members))
    for options, expected in (([], [3, 0, 1, 2]), (["--subset", "test"], [3]), (["--subset", "train_50"], [0])):
        out = tmp_path / "-".join(["out", *options])
        assert predict(checkpoint, split, "--out", out, *options) == 0
        assert [row["record_id"] for row in rows(out / "predictions.csv")] == [f"idx {one}" for one in expected]
    with pytest.raises(SystemExit, match="no_such.tsv: no such manifest .manifests in this folder: test.tsv"):
        predict(checkpoint, split, "--subset", "no_such", "--out", tmp_path / "none")


def test_results_are_replaced_when_new_ones_are_there(checkpoint, tmp_path, monkeypatch):
    file, out = write_npy(tmp_path / "x.npy"), tmp_path / "out"
    assert predict(checkpoint, file, "--out", out, *RATE, "--segments", "--format", "parquet") == 0
    before = (out / "predictions.parquet").read_bytes()
    monkeypatch.setattr(ensemble.Ensemble, "predict_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert predict(checkpoint, file, "--out", out, *RATE, "--overwrite") == 130
    assert (out / "predictions.parquet").read_bytes() == before
    monkeypatch.undo()
    assert predict(checkpoint, file, "--out", out, *RATE, "--overwrite") == 0
    assert sorted(path.name for path in out.iterdir()) == [".finished.json", "predictions.csv", "rejected.csv"]


def test_values_of_a_regression(tmp_path):
    checkpoint = saved_checkpoint(tmp_path / "r.pt", "regression")
    file = write_npy(tmp_path / "x.npy")
    assert predict(checkpoint, file, "--out", tmp_path / "out", *RATE) == 0
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert list(row)[14:] == [f"prediction_{name}" for name in LABELS]
    expected = fairseq_signals_ext.load(checkpoint).predict(file, 500).scores
    np.testing.assert_allclose([float(row[f"prediction_{name}"]) for name in LABELS], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"checkpoint": "no_such.pt"}, "no_such.pt: no such checkpoint"),
        ({"files": ["no_such.tsv"]}, "no_such.tsv: no such file or folder"),
        ({"more": ["--subset", "test"]}, "--subset test: none of the inputs is the folder of a split"),
        ({"more": ["--batch-size", "0"]}, "batch-size 0"),
        ({"more": ["--threads", "0"]}, "threads 0"),
        ({"more": ["--device", "cuda:99"]}, "device 'cuda:99': cannot be used"),
        ({"out": "taken"}, "exists already"),
        ({"more": ["--input-unit", "furlong"]}, "unit 'furlong': is not a voltage"),
        ({"more": ["--input-leads", "I,II,X9"]}, "unknown lead 'X9'"),
        ({"more": ["--input-rate", "-5"]}, "sample rate -5: give Hz above 0"),
        ({"more": ["--aggregate", "ecg-fm"]}, "has none of ECG-FM's labels"),
        ({"more": ["--labels", "nope.csv"]}, "nope.csv: no such file"),
    ],
)
def test_a_users_mistake_is_one_line(checkpoint, tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "x.npy")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "predictions.csv").write_text("precious")
    given = {"checkpoint": checkpoint, "files": ["x.npy"], "more": [], "out": "out", **change}
    with pytest.raises(SystemExit, match=told) as found:
        predict(given["checkpoint"], *given["files"], "--out", given["out"], *RATE, *given["more"])
    assert "\n" not in str(found.value)
    assert (tmp_path / "taken" / "predictions.csv").read_text() == "precious"
