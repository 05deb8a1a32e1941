"""The command `explain`."""

import argparse
import csv
import errno
import subprocess
import sys

import numpy as np
import pytest
from made_up import made_up_counts, plain_recording
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.commands import explain
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS


def called(*arguments):
    """The command, as the console command calls it."""
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    return explain.run(parser.parse_args([str(argument) for argument in arguments]))


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and recordings: two of one name, and one that is none."""
    folder = tmp_path_factory.mktemp("explain")
    saved_checkpoint(folder / "model.pt")
    saved_checkpoint(folder / "pretrained.pt", "pretraining")
    saved_checkpoint(folder / "numbers.pt", "regression")
    for number, place in enumerate(("a", "b")):
        (folder / place).mkdir()
        np.save(folder / place / "ecg.npy", made_up_counts(np.random.default_rng(number), 2000) / 1000)
    (folder / "c").mkdir()
    (folder / "c" / "ecg.npy").write_bytes(b"nothing")
    return folder


SAID = ("--input-rate", 500, "--input-unit", "mV")


def test_attention_of_several_files(folder, tmp_path, capsys):
    files = [folder / place / "ecg.npy" for place in "acb"]
    assert called(folder / "model.pt", *files, *SAID, "--out", tmp_path, "--sanity-check") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".finished.json", "ecg-3.npz", "ecg-3.svg", "ecg.npz", "ecg.svg", "explanations.csv", "rejected.csv"),
    ]
    (rejected,) = table(tmp_path / "rejected.csv")
    assert rejected["file"] == str(files[1]) and rejected["reason"].startswith("it is not an ECG")
    rows = table(tmp_path / "explanations.csv")
    assert [row["file"] for row in rows] == [str(files[0]), str(files[2])]
    assert [row["saliency"] for row in rows] == ["ecg.npz", "ecg-3.npz"]
    for row in rows:
        assert row["method"] == "attention" and row["label"] == row["lead"] == row["probability"] == ""
        assert -1 <= float(row["sanity_check"]) < 0.9
        with np.load(tmp_path / row["saliency"], allow_pickle=False) as found:
            assert found["saliency"].shape == found["seconds"].shape == (2000,)
            assert found["seconds"][np.nanargmax(found["saliency"])] == pytest.approx(float(row["seconds"]))
            assert found["sample_rate"] == 500 and found["leads"].size == 0
            assert (found["method"], found["label"]) == ("attention", "")
    assert capsys.readouterr().out.endswith(
        f"{tmp_path}: 2 explanations\n{tmp_path / 'rejected.csv'}: 1 rejected\n  {files[1]}: {rejected['reason']}\n"
    )
    assert "<svg" in (tmp_path / "ecg.svg").read_text()


def test_gradient_of_two_labels(folder, tmp_path):
    file = folder / "a" / "ecg.npy"
    options = ("--method", "gradient", "--steps", 5, "--label", "C", "A", "--picture", "png")
    assert called(folder / "model.pt", file, *SAID, "--out", tmp_path, *options) == 0
    assert table(tmp_path / "rejected.csv") == []
    rows = table(tmp_path / "explanations.csv")
    assert [(row["label"], row["saliency"]) for row in rows] == [("C", "ecg-C.npz"), ("A", "ecg-A.npz")]
    for row in rows:
        assert 0 < float(row["probability"]) < 1 and row["lead"]
        assert (tmp_path / f"ecg-{row['label']}.png").read_bytes().startswith(b"\x89PNG")
        with np.load(tmp_path / row["saliency"], allow_pickle=False) as found:
            assert found["saliency"].shape == (12, 2000) and found["leads"].tolist()[1] == "II"
            assert found["label"] == row["label"]


def test_occlusion_of_the_most_probable_label(folder, tmp_path):
    import fairseq_signals_ext

    file = folder / "b" / "ecg.npy"
    arguments = (folder / "model.pt", file, *SAID, "--out", tmp_path, "--picture", "none", "--method", "occlusion")
    assert called(*arguments) == 0
    (row,) = table(tmp_path / "explanations.csv")
    prediction = fairseq_signals_ext.load(folder / "model.pt").predict(np.load(file), 500)
    reached = [name for name, positive in zip("ABC", prediction.positive) if positive]
    assert row["label"] == max(reached or "ABC", key=prediction.as_dict().get)
    assert float(row["probability"]) == pytest.approx(prediction.as_dict()[row["label"]], abs=1e-5)
    whole, *parts = table(tmp_path / "ecg-occlusion.csv")
    assert list(whole) == ["region", "lead", "probability", "drop"]
    assert whole == {"region": "none", "lead": "none", "probability": row["probability"], "drop": "0"}
    assert len(parts) >= 12 and row["note"]
    for part in parts:
        drop = float(whole["probability"]) - float(part["probability"])
        assert float(part["drop"]) == pytest.approx(drop, abs=2e-5)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".csv", ".csv", ".json", ".npz"]


def test_values_of_a_regression(folder, tmp_path):
    file = folder / "a" / "ecg.npy"
    options = ("--out", tmp_path, "--picture", "none", "--method", "gradient:saliency")
    assert called(folder / "numbers.pt", file, *SAID, *options) == 0
    (row,) = table(tmp_path / "explanations.csv")
    assert row["label"] == "A" and np.isfinite(float(row["value"])) and "probability" not in row


def test_results_are_not_replaced_by_default(folder, tmp_path):
    arguments = (folder / "pretrained.pt", folder / "a" / "ecg.npy", *SAID, "--out", tmp_path, "--picture", "none")
    assert called(*arguments) == 0
    for name in ("explanations.csv", "ecg.npz"):
        with pytest.raises(UserError, match=rf"{name}: exists already; give another --out, or replace it with --over"):
            called(*arguments)
        (tmp_path / "explanations.csv").unlink(missing_ok=True)
        (tmp_path / "rejected.csv").unlink(missing_ok=True)
    assert called(*arguments, "--overwrite") == 0


def test_an_interrupted_run_continues(folder, tmp_path, monkeypatch):
    files = [folder / place / "ecg.npy" for place in "acb"]
    arguments = (folder / "model.pt", *files, *SAID, "--picture", "none", "--out")
    assert called(*arguments, tmp_path / "whole") == 1
    original = explain.explain_segments

    def interrupted(model, segments, label, options):
        if list((tmp_path / "broken").glob("*.npz")):
            raise KeyboardInterrupt
        return original(model, segments, label, options)

    monkeypatch.setattr(explain, "explain_segments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        called(*arguments, tmp_path / "broken")
    monkeypatch.undo()
    assert called(*arguments, tmp_path / "broken", "--resume") == 1
    for path in (tmp_path / "whole").iterdir():
        assert path.suffix == ".npz" or (tmp_path / "broken" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "broken").iterdir())) == len(list((tmp_path / "whole").iterdir())) == 5


def test_a_full_disk_is_no_fault_of_a_recording(folder, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left") as found:
        called(folder / "model.pt", folder / "a" / "ecg.npy", *SAID, "--picture", "none", "--out", tmp_path)
    assert found.value.filename == str(tmp_path)


def test_mistakes_are_one_line_before_the_work(folder, tmp_path):
    file = folder / "a" / "ecg.npy"
    for message, arguments in {
        r"model.pt has A, B, C; name one of them$": ("model.pt", "--method", "gradient", "--label", "D"),
        r"^--label A: attention is the same for all labels": ("model.pt", "--label", "A"),
        r"^layer 7: .*model.pt has layers 1 to 2": ("model.pt", "--layer", 7),
        r"^method 'x': use one of attention, rollout": ("model.pt", "--method", "x"),
        r"pretrained model without labels; use the method attention": ("pretrained.pt", "--method", "gradient"),
    }.items():
        with pytest.raises(UserError, match=message) as error:
            called(folder / arguments[0], file, *SAID, "--out", tmp_path / "out", *arguments[1:])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_onnx_export_is_refused_in_one_line(folder, tmp_path):
    from fairseq_signals_ext.inference.export import export

    export(folder / "model.pt", "onnx", tmp_path / "model")
    for method in ("attention", "gradient", "occlusion"):
        with pytest.raises(UserError, match="an ONNX or TorchScript export has only its outputs; give the checkpoint"):
            called(tmp_path / "model", folder / "a" / "ecg.npy", *SAID, "--out", tmp_path / "out", "--method", method)


def test_nothing_that_goes_wrong_with_a_file_stops_the_rest(folder, tmp_path, monkeypatch):
    explain_segments, failures = explain.explain_segments, [ZeroDivisionError("of nothing")]

    def failing(*arguments):
        if failures:
            raise failures.pop()
        return explain_segments(*arguments)

    monkeypatch.setattr(explain, "explain_segments", failing)
    files = [folder / place / "ecg.npy" for place in "ab"]
    assert called(folder / "model.pt", *files, *SAID, "--out", tmp_path, "--picture", "none") == 1
    reason = "cannot be used (ZeroDivisionError: of nothing); get it again"
    assert table(tmp_path / "rejected.csv") == [{"file": str(files[0]), "reason": reason}]
    assert [row["file"] for row in table(tmp_path / "explanations.csv")] == [str(files[1])]


def test_nothing_is_left_of_a_recording_that_is_rejected(folder, tmp_path, monkeypatch):
    """Neither its first map nor maps of an earlier run."""
    file, two = folder / "a" / "ecg.npy", ("--method", "gradient", "--label", "A", "B", "--steps", 2)
    arguments = (folder / "model.pt", file, *SAID, "--out", tmp_path, *two)
    assert called(*arguments) == 0
    assert len(list(tmp_path.glob("ecg-*"))) == 4
    original = explain.explain_segments

    def failing(model, segments, label, options):
        if label == "B":
            raise ZeroDivisionError
        return original(model, segments, label, options)

    monkeypatch.setattr(explain, "explain_segments", failing)
    assert called(*arguments, "--overwrite") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".finished.json", "explanations.csv", "rejected.csv"]
    assert table(tmp_path / "explanations.csv") == []


def test_maps_of_leads_are_drawn_as_means_over_40_ms():
    from fairseq_signals_ext.analysis.saliency import Saliency
    from fairseq_signals_ext.pages.saliency_bands import drawn_values, smoothed

    values = np.zeros((12, 2000), np.float32)
    values[1, 1000] = -1
    recording = plain_recording(np.zeros((12, 2000)))
    drawn = drawn_values(Saliency("gradient", "A", values, LEADS, 500.0, 1999 / 500), recording)
    assert drawn.sum(axis=1) == pytest.approx(np.eye(12)[1]) and set(drawn[1].round(9)) == {0, 0.05}
    assert abs(np.flatnonzero(drawn[1]).mean() - 1000) <= 0.5
    of_time = drawn_values(Saliency("attention", None, -values[1], (), 500.0, 1999 / 500), recording)
    assert of_time.tolist() == (-values[1]).tolist(), "others as they are"
    rows = np.array([[np.nan, 2.0, 2.0, np.nan, 0.0, 6.0]])
    np.testing.assert_allclose(smoothed(rows, 3), [[np.nan, 2, 2, np.nan, 3, 3]])


def test_names_of_files():
    from fairseq_signals_ext.commands._entry import distinct_names, stem_of

    assert [stem_of(name) for name in ("a/x.hea", "shards/00003.npy#7", "b.c.mat", "x")] == [
        *("x", "00003.npy#7", "b.c", "x"),
    ]
    names = ["x", "X", "x-2", "x", "00003.npy#7", "../up", "Sinus rhythm|NSR", "...", "-"]
    found = distinct_names(names)
    assert found == ["x", "X-2", "x-2-2", "x-3", "00003.npy_7", "_up", "Sinus_rhythm_NSR", "recording", "recording-2"]
    assert len({name.lower() for name in found}) == len(names)


def test_real_command(ecg_data, golden_folder, tmp_path):
    records = sorted((ecg_data / "code15_wfdb").glob("*.hea"))[:1]
    code = "import sys; from fairseq_signals_ext import cli; sys.exit(cli.main(sys.argv[1:]))"
    options = ["--labels", "ecg-fm", "--method", "gradient", "--steps", "5", "--out", str(tmp_path)]
    arguments = ["explain", str(golden_folder / "tiny_finetuned.pt"), *map(str, records), *options]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert found.stdout.splitlines()[-1] == f"{tmp_path}: 1 explanation"
    (row,) = table(tmp_path / "explanations.csv")
    with np.load(tmp_path / row["saliency"]) as arrays:  # 400 Hz, so at the model's 500
        assert arrays["sample_rate"] == 500 and 0 < arrays["seconds"][1] - 1 / 500 < 1e-4
