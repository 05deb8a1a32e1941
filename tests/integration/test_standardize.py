"""The option `task.standardize` from pretraining to export: what training saw is what a file is given as."""

import json

import numpy as np
import pandas as pd
import pytest
from fine_tuning import CONFIGS, SMALL_RUN
from in_process import saved, train_here
from made_up import made_up_counts, write_label_file
from made_up_wfdb import write_wfdb
from running import SMALL

import fairseq_signals_ext
from fairseq_signals_ext import cli
from fairseq_signals_ext.common.leads import LEADS

TWO = [
    *("++optimization.max_update=2", "++optimization.max_epoch=2", "++dataset.disable_validation=true"),
    "task.enable_padding_leads=true",
]
# s; recordings that are no multiple of a segment, and one that is shorter than 10 s
LENGTHS = [10, 23, 7, 12, 10, 20]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared WFDB records of several gains, one with a constant lead and one without V6; `records` beside them."""
    top = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number, seconds in enumerate(LENGTHS):
        leads = LEADS[:-1] if number == 1 else LEADS
        counts = made_up_counts(rng, seconds * 500)[: len(leads)]
        counts[7] = 40 if number == 2 else counts[7]
        write_wfdb(top / "records" / f"r{number}", counts, leads, gain=500.0 * (1 + number), baseline=100 * number)
    prepared = top / "prepared"
    assert cli.main(["prepare", "wfdb", str(top / "records"), "--out", str(prepared)]) == 0
    for split in ("train", "valid", "test"):
        (prepared / f"{split}.tsv").write_text((prepared / "all.tsv").read_text())
    write_label_file(prepared / "labels", rng.integers(0, 2, (len(LENGTHS), 2)))
    return prepared


def pretrain(data, out, *options):
    return train_here(data, out, *SMALL, *TWO, *options) / "checkpoint_last.pt"


def finetune(data, out, pretrained, *options):
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *TWO, *options]
    return train_here(data, out, *given, configs=CONFIGS) / "checkpoint_last.pt"


def scores(path):
    """Probabilities by record."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return table.sort_values("idx" if "idx" in table else "file").filter(like="probability_").to_numpy()


SINGLE = ["model._name=ecg_wav2vec2", "criterion._name=wav2vec"]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param(["task.standardize=lead"], 5, marks=pytest.mark.slow),
        pytest.param(["task.standardize=recording"], 5, marks=pytest.mark.slow),
        (["task.standardize=fixed", "task.segment_seconds=10", *SINGLE], 10),
    ],
    ids=["lead", "recording", "fixed, of 10 s"],
)
def test_predict_evaluate_and_export_agree(data, tmp_path, capsys, options, seconds):
    way = options[0].split("=")[1]
    pretrained = pretrain(data, tmp_path / "pretrained", *options)
    # which takes the pretraining's way
    checkpoint = finetune(data, tmp_path / "run", pretrained, f"task.segment_seconds={seconds}")
    assert saved(tmp_path / "run")["task_state"]["standardization"] == way
    quick = ["--device", "cpu", "--jobs", "0"]
    records = sorted(map(str, (data.parent / "records").glob("*.hea")))
    assert cli.main(["predict", str(checkpoint), *records, "--out", str(tmp_path / "of files"), *quick]) == 0
    evaluated = ["--data", str(data), "--subset", "test", "--out", str(tmp_path / "evaluated")]
    assert cli.main(["evaluate", str(checkpoint), *evaluated, *quick]) == 0
    assert cli.main(["export", str(checkpoint), "--to", "onnx", "--out", str(tmp_path / "onnx")]) == 0
    assert cli.main(["predict", str(tmp_path / "onnx"), *records, "--out", str(tmp_path / "of onnx"), *quick]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"]["standardization"] == way
    expected = scores(tmp_path / "evaluated" / "predictions.parquet")
    assert expected.shape == (len(LENGTHS), 2) and np.ptp(expected, axis=0).min() > 1e-4
    np.testing.assert_allclose(scores(tmp_path / "of files" / "predictions.csv"), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores(tmp_path / "of onnx" / "predictions.csv"), expected, rtol=0, atol=1e-4)
    found = fairseq_signals_ext.load(checkpoint).predict(records[0])
    assert len(found.segment_scores) == LENGTHS[0] // seconds


def test_another_way_than_the_pretraining_is_refused(data, tmp_path):
    pretrained = pretrain(data, tmp_path / "pretrained", "task.standardize=recording")
    with pytest.raises(SystemExit, match="standardisation by recording there and lead here.*allow_mismatch=true"):
        finetune(data, tmp_path / "run", pretrained, "task.standardize=lead")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["task.standardize=z"], "task.standardize=z: use one of lead, segment, recording, fixed"),
        (["task.standardize=fixed", "task.normalize=true"], "are two ways to standardise; leave one out"),
    ],
)
def test_a_wrong_way_is_one_line(data, tmp_path, options, told):
    with pytest.raises(SystemExit, match=told) as error:
        pretrain(data, tmp_path, *options)
    assert "\n" not in str(error.value)
