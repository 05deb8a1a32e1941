"""A model loaded from any file gives the same predictions for a recording, equal to those in validation."""

import hashlib
import json
import re
import shutil
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fairseq_batches import validated
from made_up import made_up_counts, plain_recording, stored_recording, write_label_file
from made_up_checkpoints import LABELS, saved_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext import cli
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing, write_description
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.common.errors import MissingPackageError, UserError, install_command
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.evaluation.predictions import to_recordings
from fairseq_signals_ext.inference.export import export
from fairseq_signals_ext.inference.export_formats import write_torchscript
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.network import build_network
from fairseq_signals_ext.inference.preprocessing import segments_of
from fairseq_signals_ext.readers import read_ecg


def prepare_command(arguments):
    return cli.main(["prepare", *arguments])


FORMATS = ("safetensors", "torchscript", "onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One classifier of a 1 s segment every 5 s, with thresholds, in all formats: name -> path."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = saved_checkpoint(folder / "classifier.pt")
    paths = {to: export(checkpoint, to, folder / to).folder for to in FORMATS}
    return {"checkpoint": checkpoint, **paths}


def ecg(seconds=17, seed=0):
    """Leads x samples, mV, at 500 Hz."""
    return made_up_counts(np.random.default_rng(seed), int(500 * seconds)) / 1000


def test_same_scores_as_validation(ecg_data, golden_folder, tmp_path):
    """ECG-FM's classifier on files as they are, and through `prepare` and the batches of `fairseq-validate`."""
    source = tmp_path / "source"
    for folder in ("cinc2021/georgia", "formats"):
        shutil.copytree(ecg_data / folder, source / folder)
    for file in list((ecg_data / "code15_wfdb").iterdir())[:20]:
        shutil.copy(file, source / file.name)
    prepare_command(["files", str(source), "--out", str(tmp_path)])
    (tmp_path / "all.tsv").rename(tmp_path / "test.tsv")
    table = pd.read_parquet(tmp_path / "recordings.parquet").set_index("idx")
    values = np.random.default_rng(0).integers(0, 2, (table.index.max() + 1, 17))
    labels = write_label_file(tmp_path / "labels", values)
    checkpoint = golden_folder / "tiny_finetuned.pt"
    segments = replace(
        validated(checkpoint, tmp_path, "test", labels),
        label_names=fairseq_signals_ext.load(checkpoint, labels="ecg-fm").label_names,
    )
    expected = to_recordings(segments, "ecg-fm")
    assert len(expected.idx) > 20
    model = fairseq_signals_ext.load(checkpoint, labels="ecg-fm")
    for idx, scores in zip(expected.idx, expected.scores):
        found = model.predict(source / table.loc[idx, "source_file"])
        np.testing.assert_allclose(found.segment_scores, segments.scores[segments.idx == idx], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("seconds", "segments"), [(0.3, 1), (1, 1), (352, 70)])
def test_exports_predict_the_same_as_the_checkpoint(models, name, seconds, segments):
    expected = fairseq_signals_ext.load(models["checkpoint"])
    model = fairseq_signals_ext.load(models[name])
    assert model.description.preprocessing == expected.description.preprocessing
    assert (model.label_names, model.thresholds, model.sample_rate) == (LABELS, (0.25, 0.5, 0.75), 500)
    found, wanted = (each.predict(ecg(seconds), 500) for each in (model, expected))
    assert found.segment_scores.shape == (segments, 3) and found.scores.dtype == np.float64
    np.testing.assert_allclose(found.segment_scores, wanted.segment_scores, rtol=0, atol=1e-5)
    embedding = model.embed(ecg(seconds), 500)
    assert embedding.dtype == np.float32 and embedding.shape == (32,)
    np.testing.assert_allclose(embedding, expected.embed(ecg(seconds), 500), rtol=0, atol=1e-5)


def test_paths_of_an_export(models, tmp_path):
    for name, file in (("onnx", "model.onnx"), ("torchscript", "model.pt")):
        expected = fairseq_signals_ext.load(models[name]).predict(ecg(), 500).scores
        for path in (models[name] / "config.json", str(models[name] / file), f"{models[name]}/"):
            np.testing.assert_array_equal(fairseq_signals_ext.load(path).predict(ecg(), 500).scores, expected)


@pytest.mark.parametrize("name", ["onnx", "other"])
def test_checkpoint_beside_a_config(models, tmp_path, name):
    folder = copied(models["onnx"], tmp_path)
    if name == "other":
        (folder / "config.json").write_text("{}")
    shutil.copy(models["checkpoint"], folder / "best.pt")
    assert repr(fairseq_signals_ext.load(folder / "best.pt")).endswith("runs on torch>")


def test_scores_of_recordings(models):
    model = fairseq_signals_ext.load(models["checkpoint"])
    model = LoadedModel(replace(model.description, aggregation=("mean", "max", "mean")), model._backend, "m")
    found = model.predict(ecg(), 500)
    segments = found.segment_scores
    expected = [segments[:, 0].mean(), segments[:, 1].max(), segments[:, 2].mean()]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-12)
    assert found.positive.tolist() == [expected[0] >= 0.25, expected[1] >= 0.5, expected[2] >= 0.75]
    assert found.as_dict() == dict(zip("ABC", found.scores.tolist()))
    with torch.no_grad():
        logits, embeddings = model.network(
            *map(torch.from_numpy, segments_of(plain_recording(ecg()), model.preprocessing))
        )
    np.testing.assert_allclose(segments, torch.sigmoid(logits.double()), rtol=1e-6)
    np.testing.assert_allclose(model.embed(ecg(), 500, per="segment"), embeddings, atol=1e-6)
    np.testing.assert_allclose(model.embed(ecg(), 500), embeddings.mean(0), atol=1e-6)


def constant_model(rows, kind="classification", **description):
    """A model that returns row k for segment k, for any input."""
    labels = tuple("ABC")[: len(rows[0])]
    facts = {"label_names": labels, "aggregation": ("mean",) * len(labels), **description}
    if kind == "regression":
        facts.update(target_mean=(0.0,) * len(labels), target_std=(1.0,) * len(labels))
    outputs = np.array(rows, np.float32)
    return LoadedModel(
        ModelDescription(kind, {}, Preprocessing(segment_samples=500, stride_samples=500), **facts),
        lambda source, padding_mask: (outputs[: len(source)], outputs[: len(source)]),
        "constant",
    )


def test_by_hand():
    model = constant_model([[0, np.log(3), 2000], [0, -np.log(3), -2000]], thresholds=(0.5, 0.6, 0.5))
    found = model.predict(ecg(2), 500)
    np.testing.assert_allclose(found.segment_scores, [[0.5, 0.75, 1], [0.5, 0.25, 0]], atol=1e-7)
    np.testing.assert_allclose(found.scores, [0.5, 0.5, 0.5], atol=1e-7)
    assert found.positive.tolist() == [True, False, True]
    assert constant_model([[0.0]]).predict(ecg(1), 500).positive is None
    values = constant_model([[61.5, -2], [62.5, -4]], "regression").predict(ecg(2), 500)
    assert values.as_dict() == {"A": 62.0, "B": -3.0}


@pytest.mark.parametrize("kind", ["regression", "pretraining"])
def test_other_kinds(kind, tmp_path):
    checkpoint = saved_checkpoint(tmp_path / "model.pt", kind)
    model = fairseq_signals_ext.load(checkpoint)
    contents = read_checkpoint(checkpoint)
    write_torchscript(build_network(contents, model.description), model.description, tmp_path / "script.pt")
    write_description(model.description, "script.pt", tmp_path)
    other = fairseq_signals_ext.load(tmp_path)
    np.testing.assert_allclose(model.embed(ecg(), 500), other.embed(ecg(), 500), atol=1e-5)
    if kind == "pretraining":
        assert model.label_names == () and model.embed(ecg(), 500, per="segment").shape == (3, 32)
        with pytest.raises(
            UserError,
            match=r"model.pt: is a pretrained model, which has no labels; fine-tune it, or use .* embed",
        ):
            model.predict(ecg(), 500)
        return
    values, others = model.predict(ecg(), 500).scores, other.predict(ecg(), 500).scores
    standardised = (values - [60, -2, 1000]) / [17, 0.1, 300]
    assert (np.abs(standardised) < 10).all() and standardised.any()
    np.testing.assert_allclose(others, values, rtol=1e-5)


def test_ways_to_give_a_recording(models, tmp_path):
    model = fairseq_signals_ext.load(models["onnx"])
    signal = ecg()
    expected = model.predict(plain_recording(signal))
    order = np.random.default_rng(0).permutation(12)
    shuffled = [LEADS[position] for position in order]
    np.save(tmp_path / "ecg.npy", signal)
    for given, options in (
        (signal, {"sample_rate": 500}),
        (torch.from_numpy(signal), {"sample_rate": 500}),
        (signal[order], {"sample_rate": 500, "leads": shuffled}),
        (signal[order], {"sample_rate": 500, "leads": ",".join(shuffled).lower()}),
        (tmp_path / "ecg.npy", {"sample_rate": 500}),
        (str(tmp_path / "ecg.npy"), {"sample_rate": 500, "leads": ",".join(LEADS)}),
        (signal * 1000, {"sample_rate": 500}),  # a unit makes no difference here
    ):
        found = model.predict(given, **options)
        # shards, and so models, have counts: a float signal is rounded to 16 bits
        np.testing.assert_allclose(found.segment_scores, expected.segment_scores, rtol=0, atol=1e-4)
    two = model.predict(signal[:2], 500, leads=["I", "II"])
    six = model.predict(signal[:2][::-1], 500, leads="II,I")
    np.testing.assert_array_equal(two.scores, six.scores)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros((12, 500)), {}, "array: its sample rate is missing; give sample_rate in Hz"),
        (np.zeros((500, 12)), {"sample_rate": 500}, "array: its shape is 500 x 12, .*; give its transpose"),
        (np.zeros((3, 500)), {"sample_rate": 500}, "array: its shape is 3 x 500, .*; name its leads"),
        (np.zeros((3, 500)), {"sample_rate": 500, "leads": "I,II"}, "but 2 leads are named"),
        (np.zeros((2, 500)), {"sample_rate": 500, "leads": "I,I"}, "a lead is named twice"),
        (np.zeros((2, 500)), {"sample_rate": 500, "leads": "I,X1"}, "unknown lead 'X1'"),
        (np.zeros(500), {"sample_rate": 500}, "its shape is 500; give numbers, leads x samples"),
        (np.zeros((12, 500), complex), {"sample_rate": 500}, "array: is of complex128"),
        (np.full((12, 500), "a"), {"sample_rate": 500}, "array: is of <U1"),
        (np.zeros((12, 0)), {"sample_rate": 500}, "array: it has no samples"),
        (np.full((12, 500), np.inf), {"sample_rate": 500}, "array: it contains infinite values"),
        (np.zeros((12, 500)), {"sample_rate": 500}, "array: its leads never change"),
        (np.eye(12, 500), {"sample_rate": -1}, "array: its sample rate is -1.0 Hz"),
        (
            np.eye(12, 5),
            {"sample_rate": 500},
            "array: no numbers come out of the model; give a recording longer than 0.01 s",
        ),
        (plain_recording(np.eye(12, 500)), {"sample_rate": 500}, "recording 'r': has a sample rate, leads"),
        ("no.hea", {}, "no.hea: no such file"),
    ],
)
def test_wrong_recordings(models, given, options, message):
    with pytest.raises(UserError, match=message) as error:
        fairseq_signals_ext.load(models["onnx"]).predict(given, **options)
    assert "\n" not in str(error.value)


def test_files_are_named(models, tmp_path):
    np.save(tmp_path / "flat.npy", np.ones((12, 500)))
    with pytest.raises(UserError, match="flat.npy: its leads never change"):
        fairseq_signals_ext.load(models["onnx"]).predict(tmp_path / "flat.npy", sample_rate=500)


def test_a_day_needs_little_memory():
    """24 h of 12 leads at 50 Hz: the model gets 32 segments at a time, made of one copy of the counts."""
    rng = np.random.default_rng(0)
    counts = rng.integers(-2000, 2000, (12, 24 * 3600 * 50), np.int16)
    recording = replace(stored_recording(counts[:, :1], sample_rate=50.0), physical=None)
    recording = replace(recording, stored=replace(recording.stored, counts=counts))
    batches = []

    def backend(source, padding_mask):
        batches.append(len(source))
        return (source.mean(-1),)

    inputs = Preprocessing(50.0, segment_samples=250, stride_samples=250)
    model = LoadedModel(ModelDescription("pretraining", {}, inputs), backend, "m")
    tracemalloc.start()
    assert model.embed(recording, per="segment").shape == (24 * 720, 12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(batches) == 24 * 720 and max(batches) == 32
    assert peak < 2 * counts.nbytes


def test_looks(models):
    model = fairseq_signals_ext.load(models["onnx"])
    assert repr(model) == (
        f"<LoadedModel {models['onnx']}: classification, 3 labels; 12 leads, 500 Hz, 1 s of every 5 s; runs on ONNX>"
    )
    assert (model.source, model.leads) == (str(models["onnx"]), LEADS)
    model = constant_model([[0.0]])
    assert repr(model).endswith("classification, 1 label; 12 leads, 500 Hz, segments of 1 s; runs on a function>")


def test_labels_of_a_checkpoint(models, tmp_path):
    (tmp_path / "names.csv").write_text("name\nAF\nSR\nPVC\n")
    with pytest.raises(UserError, match="its labels are not those of .*, A, B, C; leave it out"):
        fairseq_signals_ext.load(models["checkpoint"], labels=str(tmp_path / "names.csv"))
    state = torch.load(models["checkpoint"], weights_only=True)
    del state["task_state"]["label_names"]
    torch.save(state, tmp_path / "nameless.pt")
    model = fairseq_signals_ext.load(tmp_path / "nameless.pt", labels=str(tmp_path / "names.csv"))
    assert list(model.predict(ecg(), 500).as_dict()) == ["AF", "SR", "PVC"]


@pytest.mark.parametrize("name", FORMATS)
def test_threads_and_devices(models, name):
    expected = fairseq_signals_ext.load(models[name]).predict(ecg(), 500).scores
    before = torch.get_num_threads()
    found = fairseq_signals_ext.load(models[name], threads=1, device="cpu").predict(ecg(), 500).scores
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert torch.get_num_threads() == before
    with pytest.raises(UserError, match="threads 0: give at least 1"):
        fairseq_signals_ext.load(models[name], threads=0)
    for device in ("tpu9", "cuda:77"):
        with pytest.raises(UserError, match=f"device '{device}'") as error:
            fairseq_signals_ext.load(models[name], device=device)
        assert "\n" not in str(error.value)


def copied(folder, out):
    """An export that may be damaged."""
    return Path(shutil.copytree(folder, out / "copy"))


def believe(folder, weights):
    """Write the checksum of the weights as they are now, as somebody with bad intentions would."""
    facts = json.loads((folder / "config.json").read_text())
    facts["sha256"] = {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bit(models, name, tmp_path):
    folder = copied(models[name], tmp_path)
    weights = next(file for file in folder.iterdir() if file.stem == "model")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=f"{weights.name}: is not the file that"):
        fairseq_signals_ext.load(folder)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_exports(models, name, tmp_path):
    folder = copied(models[name], tmp_path)
    weights = next(file for file in folder.iterdir() if file.stem == "model")
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no model at all" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{weights.name}: is not the file that .*; copy the whole folder again"):
            fairseq_signals_ext.load(folder)
        believe(folder, weights)
        with pytest.raises(UserError, match=rf"{weights.name}: damaged.*export again") as error:
            fairseq_signals_ext.load(folder)
        assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(UserError, match=f"config.json: its weights '{weights.name}' are not in this folder"):
        fairseq_signals_ext.load(folder)


def test_exports_that_do_not_fit(models, tmp_path):
    folder = copied(models["onnx"], tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    other = {**facts, "label_names": ["A"], "thresholds": None, "aggregation": ["mean"]}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="3 outputs for 1 labels, so weights and config are of two models"):
        fairseq_signals_ext.load(folder).predict(ecg(), 500)
    other = {**facts, "kind": "regression", "target_mean": [0] * 3, "target_std": [1] * 3, "thresholds": None}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="model.onnx: has no output 'values', so it belongs to another model"):
        fairseq_signals_ext.load(folder)
    (folder / "model.bin").write_bytes(b"")
    write_description(ModelDescription("pretraining", {}), "model.bin", folder)
    with pytest.raises(UserError, match="config.json: weights 'model.bin' are of no known kind"):
        fairseq_signals_ext.load(folder)


def test_wrong_sources(models, tmp_path):
    for source, message in (
        (tmp_path / "none.pt", "none.pt: no such checkpoint"),
        (tmp_path, "config.json: no such file; give a folder that fairseq-signals-ext export made, or a checkpoint"),
        (tmp_path / "gone" / "model.onnx", "gone/model.onnx: no such file; give a folder"),
    ):
        with pytest.raises(UserError, match=message) as error:
            fairseq_signals_ext.load(source)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="labels are in the export; leave them out"):
        fairseq_signals_ext.load(models["onnx"], labels="ecg-fm")


@pytest.mark.parametrize("name", ["onnx", "safetensors"])
def test_a_file_that_is_not_the_export_of_its_folder(models, tmp_path, name):
    folder = copied(models[name], tmp_path)
    shutil.copy(folder / f"model.{name}", folder / f"other.{name}")
    other = {"onnx": "safetensors", "safetensors": "onnx"}[name]
    (folder / f"broken.{other}").write_bytes(b"x")
    for file in (f"other.{name}", f"broken.{other}"):
        with pytest.raises(UserError, match=f"{file}: the export in its folder is model.{name}; give that") as error:
            fairseq_signals_ext.load(folder / file)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"nope.{name}: no such file; give a folder"):
        fairseq_signals_ext.load(folder / f"nope.{name}")
    (tmp_path / f"alone.{name}").touch()
    with pytest.raises(UserError, match="config.json: no such file"):
        fairseq_signals_ext.load(tmp_path / f"alone.{name}")
    assert fairseq_signals_ext.load(folder / f"model.{name}").label_names == LABELS


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("onnx", "onnxruntime", "onnx"),
        ("torchscript", "torch", "train"),
        ("checkpoint", "torch", "train"),
        ("safetensors", "safetensors", "train"),
    ],
)
def test_missing_packages(models, monkeypatch, name, package, extra):
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    hint = f"{models[name]}: {package} is not installed: {install_command(extra)}"
    with pytest.raises(MissingPackageError, match=re.escape(hint)):
        fairseq_signals_ext.load(models[name])


def test_nothing_in_a_file_is_run(tmp_path):
    """A pickle that would write a file, as a checkpoint and as TorchScript (without TorchScript's own code)."""

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_run",)

    torch.save({"model": Evil(), "cfg": {}}, tmp_path / "model.pt")
    write_description(ModelDescription("pretraining", {}), "model.pt", tmp_path)
    for source in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(UserError, match="model.pt: "):
            fairseq_signals_ext.load(source)
    assert not (tmp_path / "was_run").exists()


def test_recording_of_a_file_is_the_file(models, ecg_data):
    file = ecg_data / "formats" / "dicom_12lead_1000hz.dcm"
    model = fairseq_signals_ext.load(models["onnx"])
    np.testing.assert_array_equal(model.predict(file).scores, model.predict(read_ecg(file)).scores)


def test_torchscript_on_a_device_that_is_not_there(models):
    with pytest.raises(UserError, match="^device 'cuda:77': cannot be used .*; use cpu, cuda or cuda:0$"):
        fairseq_signals_ext.load(models["torchscript"], device="cuda:77")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_are_not_numbers(tmp_path, monkeypatch, name):
    """A training that diverged is another thing than a recording that is too short."""
    monkeypatch.setattr("fairseq_signals_ext.inference.export_check.check_finite", lambda *given: None)
    monkeypatch.setattr("fairseq_signals_ext.inference.export_check.differences", lambda *given: {})
    state = torch.load(saved_checkpoint(tmp_path / "model.pt"), weights_only=True)
    state["model"]["encoder.post_extract_proj.bias"][0] = np.nan
    torch.save(state, tmp_path / "model.pt")
    for source in (tmp_path / "model.pt", export(tmp_path / "model.pt", name).folder):
        model = fairseq_signals_ext.load(source)
        for seconds in (17, 0.01):
            with pytest.raises(UserError, match="its outputs are not finite .* before the training diverged") as error:
                model.predict(ecg(seconds), 500)
            assert str(error.value).startswith(f"{source}: ")


def test_weights_of_another_export(models, tmp_path):
    """Copied beside the description of a model with other leads or other segments."""
    folder = copied(models["onnx"], tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    for option, value, needed in (
        ("leads", list(LEADS[:3]), "3 x 500"),
        ("segment_samples", 1000, "12 x 1000"),
    ):
        inputs = {**facts["preprocessing"], option: value, "loaded_leads": list(LEADS[:3])}
        (folder / "config.json").write_text(json.dumps({**facts, "preprocessing": inputs}))
        with pytest.raises(UserError, match=f"model.onnx: takes segments of 12 x 500, not {needed} as in its config"):
            fairseq_signals_ext.load(folder)


def test_folder_of_an_export_for_ecg_fm(models, tmp_path):
    folder = export(models["checkpoint"], "ecg-fm", tmp_path / "there").folder
    found = fairseq_signals_ext.load(folder).predict(ecg(), 500).scores
    np.testing.assert_array_equal(found, fairseq_signals_ext.load(folder / "classifier.pt").predict(ecg(), 500).scores)
    shutil.copy(folder / "classifier.pt", folder / "other.pt")
    with pytest.raises(UserError, match="config.json: no such file"):
        fairseq_signals_ext.load(folder)
