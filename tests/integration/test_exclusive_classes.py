"""Classes that exclude one another, from training to what is said of a recording."""

import json

import numpy as np
import pytest
from fine_tuning import CONFIGS, SMALL_RUN
from in_process import saved, train_here
from made_up import write_label_file, write_shards
from running import SMALL

import fairseq_signals_ext
from fairseq_signals_ext.cli import main

CLASSES = ["sinus", "fibrillation", "flutter"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for split in ("train", "valid"):
        write_shards(folder, [5000] * 12, split=split)
    classes = np.eye(3)[np.arange(12) % 3]
    classes[4] = np.nan
    write_label_file(folder / "labels", classes, CLASSES)
    return folder


def finetune(data, out, *overrides, **options):
    small = [option for option in SMALL if option.startswith("++model.") and "final_dim" not in option]
    small = [option for option in small if "latent" not in option and "negatives" not in option]
    given = [
        f"task.label_file={options.get('labels', data / 'labels')}",
        "++model.no_pretrained_weights=true",
        "++model.model_path=null",
        "++criterion._name=softmax",
        "++optimization.max_epoch=1",
        *small,
        *SMALL_RUN,
        *overrides,
    ]
    return train_here(data, out, *given, configs=CONFIGS)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return finetune(data, tmp_path_factory.mktemp("run"), "++checkpoint.best_checkpoint_metric=accuracy")


def test_a_checkpoint_says_that_its_probabilities_are_of_classes(trained):
    state = saved(trained)["task_state"]
    assert state["activation"] == "softmax" and "thresholds" not in state
    model = fairseq_signals_ext.load(trained / "checkpoint_last.pt")
    found = model.predict(np.random.default_rng(0).normal(size=(12, 7500)), sample_rate=500)
    assert found.segment_scores.sum(1) == pytest.approx(1) and found.scores.sum() == pytest.approx(1)
    assert found.positive.tolist() == (found.scores == found.scores.max()).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_export_says_the_same(trained, tmp_path, kind):
    assert main(["export", str(trained / "checkpoint_last.pt"), "--to", kind, "--out", str(tmp_path / "export")]) == 0
    assert json.loads((tmp_path / "export" / "config.json").read_text())["activation"] == "softmax"
    signal = np.random.default_rng(0).normal(size=(12, 7500))
    models = [fairseq_signals_ext.load(path) for path in (trained / "checkpoint_last.pt", tmp_path / "export")]
    first, second = (model.predict(signal, sample_rate=500) for model in models)
    assert second.scores == pytest.approx(first.scores, abs=1e-5)
    assert second.positive.tolist() == first.positive.tolist()


def test_an_evaluation_calls_the_most_probable_class(data, trained, tmp_path):
    out = tmp_path / "evaluation"
    options = ["--data", str(data), "--subset", "valid", "--labels", str(data / "labels"), "--out", str(out)]
    command = ["evaluate", str(trained / "checkpoint_last.pt"), *options, "--resamples", "20", "--jobs", "0"]
    assert main(command) == 0
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["threshold_rule"] == "most probable" and set(facts["thresholds"].values()) == {None}
    import pandas as pd

    table = pd.read_csv(out / "per_label.csv")
    # of the eleven known recordings one class each is called
    assert (table["tp"] + table["fp"]).sum() == 11 and (table["tp"] + table["fn"]).sum() == 11
    rows = pd.read_parquet(out / "predictions.parquet")
    assert rows[[f"probability_{name}" for name in CLASSES]].sum(axis=1).to_numpy() == pytest.approx(1)
    with pytest.raises(SystemExit, match="--thresholds"):
        main([*command, "--overwrite", "--thresholds", "f1"])


@pytest.mark.slow
def test_predict_shows_the_most_probable_class(data, trained, tmp_path):
    import pandas as pd

    out = tmp_path / "predictions"
    assert main(["predict", str(trained / "checkpoint_last.pt"), str(data / "valid.tsv"), "--out", str(out)]) == 0
    rows = pd.read_csv(out / "predictions.csv")
    positive = rows[[f"positive_{name}" for name in CLASSES]].to_numpy()
    scores = rows[[f"probability_{name}" for name in CLASSES]].to_numpy()
    assert (positive.sum(1) == 1).all() and (positive.argmax(1) == scores.argmax(1)).all()


@pytest.mark.parametrize(("row", "told"), [([1, 1, 0], "idx 2: has 'sinus', 'fibrillation'"), ([0, 0, 0], "no class")])
def test_labels_of_which_there_is_not_exactly_one_are_refused(data, tmp_path, row, told):
    classes = np.eye(3)[np.arange(12) % 3]
    classes[2] = row
    write_label_file(tmp_path / "labels", classes, CLASSES)
    with pytest.raises(SystemExit, match=f"y.npy: .*{told}.*softmax"):
        finetune(data, tmp_path / "run", labels=tmp_path / "labels")
