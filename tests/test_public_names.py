"""The names at the top of the package: light to import, each with an example that runs, and errors in one line."""

import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_checkpoints import LABELS, saved_checkpoint
from omegaconf import OmegaConf
from snippets import DOCS, ECGS, record_name, write_ecgs
from torch.utils.data import DataLoader

import fairseq_signals_ext
from fairseq_signals_ext import Recording, UserError, open_dataset, predict_many, read_ecg
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.errors import MissingPackageError
from fairseq_signals_ext.inference.ensemble import Ensemble

NAMES = [name for name in fairseq_signals_ext.__all__ if name != "UserError"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples name: ECGs, a model, and a prepared folder with a split and labels."""
    top = tmp_path_factory.mktemp("examples")
    write_ecgs(top / "ecgs")
    saved_checkpoint(top / "checkpoint_best.pt")
    lines = [f"{record_name(number)},{number % 2},{number}" for number in range(ECGS)]
    (top / "outcomes.csv").write_text("\n".join(["record_id,death_30d,age", *lines]) + "\n")
    data, table = str(top / "data"), ["--table", str(top / "outcomes.csv"), "--columns"]
    assert main(["prepare", "files", str(top / "ecgs"), "--out", data]) == 0
    assert main(["split", data, "--name", "main", "--fractions", "0.8", "0.1", "0.1"]) == 0
    assert main(["label", data, "--name", "outcomes", *table, "death_30d"]) == 0
    assert main(["label", data, "--name", "age", "--regression", *table, "age"]) == 0
    return top


@pytest.fixture()
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_examples(name, here):
    known = getattr(fairseq_signals_ext, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(known, name, globs={})
    assert test.examples, "its docstring needs an example"
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert failed.failed == 0


def test_each_is_documented_and_listed():
    assert all(inspect.getdoc(getattr(fairseq_signals_ext, name)) for name in fairseq_signals_ext.__all__)
    assert {*fairseq_signals_ext.__all__} <= {*dir(fairseq_signals_ext)}
    table = "".join(re.findall(r"^\| (`.+?) \|", (DOCS / "api.md").read_text(encoding="utf-8"), re.M))
    assert {*re.findall(r"`(\w+)`", table)} == {*fairseq_signals_ext.__all__}
    with pytest.raises(AttributeError, match="has no attribute 'predict_mny'"):
        fairseq_signals_ext.predict_mny  # noqa: B018


def test_importing_needs_nothing():
    """Only what is asked for is imported; reading a name needs no torch."""
    code = (
        "import sys, fairseq_signals_ext; there = {'numpy', 'torch', 'pandas'} & {*sys.modules}; "
        "fairseq_signals_ext.read_ecg; print(there, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"


def test_a_package_that_is_missing(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'fairseq.tasks'", name="fairseq.tasks")

    monkeypatch.delitem(vars(fairseq_signals_ext), "open_dataset", raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingPackageError, match="^open_dataset: fairseq.tasks is not installed: pip install -e "):
        fairseq_signals_ext.open_dataset  # noqa: B018


@pytest.fixture(scope="module")
def model(folder):
    return fairseq_signals_ext.load(folder / "checkpoint_best.pt")


def test_many_as_the_command_has_them(model, here, tmp_path):
    """Paths, a manifest, recordings and a file that is none, in their order, as a table and one by one."""
    (here / "broken.dcm").write_bytes(b"nothing")
    given = ["ecgs/one.hea", read_ecg("ecgs/rec01.hea"), "broken.dcm", "data/splits/main/test.tsv"]
    table = predict_many(model, given, as_frame=True, progress=False)
    assert list(table["file"][:3]) == ["ecgs/one.hea", "rec01", "broken.dcm"] and len(table) == 5
    results = list(predict_many(model, given, progress=False, jobs=1))
    assert [result.name for result in results] == list(table["file"])
    assert [result.reason for result in results] == list(table["reason"])
    assert results[2].prediction is None and results[2].reason and not any(table["reason"][[0, 1, 3, 4]])
    assert table["record_id"].isna().tolist() == [False, False, True, False, False]
    for number in (0, 1):
        expected = model.predict(given[number]).as_dict()
        assert results[number].prediction.as_dict() == pytest.approx(expected, rel=1e-5)
        assert [table[f"probability_{name}"][number] for name in LABELS] == pytest.approx([*expected.values()])
    assert main(["predict", "checkpoint_best.pt", "ecgs", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    of_command = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    ours = predict_many(model, "ecgs", as_frame=True, progress=False).drop(columns="reason")
    assert list(ours) == list(of_command)
    ours = ours.astype(object).where(ours.notna(), "")  # a text has no other sign for what is not known
    pd.testing.assert_frame_equal(ours, of_command, check_dtype=False, rtol=1e-6)


def test_many_with_several_models(model, here):
    several = [model, fairseq_signals_ext.load("checkpoint_best.pt")]
    (one,) = predict_many(several, read_ecg("ecgs/one.hea"), progress=False)
    (other,) = predict_many(Ensemble(several), "ecgs/one.hea", progress=False)
    np.testing.assert_array_equal(one.prediction.scores, other.prediction.scores)


def test_many_tells_how_far_it_is(model, here, monkeypatch, capsys):
    monkeypatch.setattr("fairseq_signals_ext.common.progress._SECONDS_BETWEEN_LINES", 0.0)
    list(predict_many(model, "ecgs/one.hea"))
    assert capsys.readouterr().err.startswith("predict: 1 of 1 recordings (100 %)")
    list(predict_many(model, "ecgs/one.hea", progress=False))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no recordings are given"),
        ("nosuch.hea", "nosuch.hea: no such file or folder"),
        ([np.zeros((12, 5000))], "recordings: one of them is a ndarray; give paths or Recordings"),
        ([None], "recordings: one of them is a NoneType"),
    ],
)
def test_many_of_what_is_none(model, here, given, message):
    with pytest.raises(UserError, match=f"^{message}"):
        predict_many(model, given)


def test_a_dataset_is_that_of_the_task(here, registered):
    """Batch for batch, as fairseq's task gives it to a model."""
    from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig, EcgClassificationTask

    ours = open_dataset("data/splits/main/valid.tsv", "data/labels/outcomes", leads_to_load="I,V1")
    given = {"data": "data/splits/main", "label_file": "data/labels/outcomes", "leads_to_load": "I,V1"}
    config = OmegaConf.merge(OmegaConf.structured(EcgClassificationConfig), {**given, "pairs": "none", "seed": 1})
    config.train_subset = "train"
    task = EcgClassificationTask(config)
    task.load_dataset("valid")
    theirs = task.datasets["valid"]
    (batch,) = DataLoader(ours, batch_size=100, collate_fn=ours.collater)
    expected = theirs.collater([theirs[number] for number in range(len(theirs))])
    torch.testing.assert_close(batch, expected, rtol=0, atol=0, equal_nan=True)
    assert batch["net_input"]["source"].shape[1:] == (12, 2500) and not batch["net_input"]["source"][:, 1].any()


def test_datasets_of_other_kinds(here):
    pairs = open_dataset("data", pairs="fixed", leads_to_load="I,V1")
    assert len(pairs) == ECGS and pairs.collater([pairs[0]])["net_input"]["source"].shape == (2, 2, 2500)
    ages = open_dataset("data", "data/labels/age", regression=True, segment_seconds=10)
    batch = ages.collater([ages[number] for number in range(len(ages))])
    assert sorted(batch["label"].ravel().tolist()) == [*map(float, range(ECGS))]
    masked = {"perturbation_mode": ["random_leads_masking"], "mask_leads_prob": 1.0}
    for training in (True, False):
        dataset = open_dataset("data", training=training, **masked)
        assert bool(dataset.collater([dataset[0]])["net_input"]["source"].any()) is not training


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ["data/splits/main"],
            {},
            "data/splits/main: is a folder; give one of its manifests, such as data/splits/main/",
        ),
        (["folds"], {}, "folds: is a split into folds; give a manifest of one, such as folds/fold-0/train.tsv"),
        (["ecgs"], {}, "ecgs/all.tsv: no such manifest (manifests in this folder: none); give a folder with manifests"),
        (["data/nosuch.tsv"], {}, "data/nosuch.tsv: no such manifest"),
        (["data", "data/labels/nosuch"], {}, "data/labels/nosuch: no such label file; give one of data/labels/"),
        (
            ["data", "data/labels/outcoms"],
            {},
            "data/labels/outcoms: no such label file; did you mean data/labels/",
        ),
        (
            ["data", "data/labels/outcoms/y.npy"],
            {},
            "data/labels/outcoms/y.npy: no such label file; did you mean ",
        ),
        (["data"], {"regression": True}, "regression: needs labels; give labels='DIR/labels/NAME'"),
        (["data"], {"label_file": "data/labels/outcomes"}, "option 'label_file': give it as labels"),
        (["data"], {"segment_second": 5}, "option 'segment_second': unknown; did you mean segment_seconds?"),
        (["data"], {"segment_seconds": "long"}, "option segment_seconds='long': "),
        (["data"], {"pairs": "all"}, "pairs='all': use one of none"),
        (["data"], {"leads_to_load": "I,V9"}, "unknown lead 'V9'"),
        (["data", "data/labels/outcomes"], {"pairs": "fixed"}, "task.pairs=fixed: pairs are for pretraining"),
        (["data"], {"segment_seconds": 60}, "data/all.tsv: none of 20 recordings has 60 s"),
    ],
)
def test_a_dataset_that_cannot_be(here, arguments, options, message):
    if arguments == ["folds"] and not (here / "folds").exists():
        shutil.copytree(here / "data" / "splits" / "main", here / "folds" / "fold-0")
    with pytest.raises(UserError) as error:
        open_dataset(*arguments, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_recording_does_not_say_who_the_patient_is(here):
    known = {"patient": "Meier, 123", "sex": "female", "codes": ("NORM",), "statements": ("Sinus", "Meier"), "ecgs": 2}
    shown = repr(Recording("r1", np.zeros((1, 1250)), (10,), 500.0, **known))
    assert shown == "<Recording 'r1': V5; 500 Hz, 2.5 s; ECG 1 of 2; female, 1 code, 2 statements>"
    # also of one that does not hold together
    assert repr(Recording("r2", None, (99,), 0)) == "<Recording 'r2': 99; 0 Hz, no signal>"
    assert repr(Recording("r3", np.zeros(5), (0,), 0)) == "<Recording 'r3': I; 0 Hz, nan s>"


def test_a_file_or_a_recording(model, here, tmp_path):
    """Pictures and reports of a file are those of its recording."""
    recording = read_ecg("ecgs/one.hea")
    saliency = fairseq_signals_ext.explain(model, "ecgs/one.hea", "B", "gradient:saliency")
    np.testing.assert_array_equal(
        saliency.values, fairseq_signals_ext.explain(model, recording, "B", "gradient:saliency").values
    )
    pictures = [fairseq_signals_ext.draw_ecg(given, saliency) for given in ("ecgs/one.hea", recording)]
    for number, picture in enumerate(pictures):
        picture.savefig(tmp_path / f"{number}.png", dpi=40)
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    fairseq_signals_ext.write_report(model, "ecgs/one.hea", str(tmp_path / "new" / "0.html"))
    fairseq_signals_ext.write_report(model, recording, tmp_path / "1.html", name="ecgs/one.hea")
    assert (tmp_path / "new" / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()
    for call in (fairseq_signals_ext.draw_ecg, fairseq_signals_ext.read_ecg):
        with pytest.raises(UserError, match="^nosuch.hea: no such file"):
            call("nosuch.hea")
