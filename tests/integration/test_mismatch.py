"""Data that are not what a pretrained encoder knows: refused or told in one line that names what differs."""

import logging

import numpy as np
import pytest
from fine_tuning import CONFIGS, SMALL_RUN
from in_process import train_here
from made_up import write_label_file, write_shards
from running import SMALL, weights

ONE = ["++optimization.max_update=1", "++dataset.disable_validation=true", "++optimization.max_epoch=1"]


def write(folder, **options):
    for split in ("train", "valid"):
        write_shards(folder, [10000] * 4, split=split, **options)
    write_label_file(folder / "labels", np.eye(4, 2))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """At 400 Hz."""
    return write(tmp_path_factory.mktemp("slower"), sample_rate=400)


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    return pretrain(data, tmp_path_factory.mktemp("pretrained"))


def pretrain(data, out, *overrides):
    return train_here(data, out, *SMALL, *ONE, *overrides) / "checkpoint_last.pt"


def finetune(data, out, pretrained, *overrides):
    options = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *ONE, *overrides]
    return train_here(data, out, *options, configs=CONFIGS) / "checkpoint_last.pt"


RATE = "sample rate 500 Hz there and 400 Hz here.*allow_mismatch=true"
KINDS = {
    "standardisation": (["++task.normalize=true"], "standardisation by lead there and segment here.*allow_mismatch"),
    "both": (["++task.normalize=true", "++task.segment_seconds=4"], "by lead there .*segments of 5 s there and 4 s"),
}


def test_another_sample_rate_is_refused_unless_it_is_meant(slower, pretrained, tmp_path):
    with pytest.raises(SystemExit, match=f"train.tsv: .*{pretrained}.*{RATE}"):
        finetune(slower, tmp_path / "run", pretrained)
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()
    assert weights(finetune(slower, tmp_path / "run", pretrained, "++task.allow_mismatch=true"))


@pytest.mark.parametrize(("options", "told"), KINDS.values(), ids=KINDS.keys())
def test_other_inputs_are_refused_by_their_names(data, pretrained, tmp_path, options, told):
    with pytest.raises(SystemExit, match=told):
        finetune(data, tmp_path / "run", pretrained, *options)


@pytest.mark.slow
def test_another_order_of_leads_is_refused(data, tmp_path):
    two = ["++task.leads_to_load='I,II'", "++task.enable_padding_leads=false", "++model.in_d=2"]
    pretrained = pretrain(data, tmp_path / "pretrained", *two)
    other = ["++task.leads_to_load='II,I'", *two[1:]]
    with pytest.raises(SystemExit, match="leads I,II there and II,I here"):
        finetune(data, tmp_path / "run", pretrained, *other)


@pytest.mark.slow
def test_lengths_and_absent_leads_are_told_once(data, pretrained, tmp_path, caplog):
    options = ["++task.segment_seconds=4", "++task.leads_to_load='I,II'"]
    with caplog.at_level(logging.WARNING):
        finetune(data, tmp_path / "run", pretrained, *options)
    (line,) = [record.getMessage() for record in caplog.records if "there and" in record.getMessage()]
    assert "segments of 5 s there and 4 s here; zeros here for III,aVR" in line


@pytest.mark.slow
def test_whole_models_and_pretrainings_are_compared_as_well(data, slower, pretrained, tmp_path):
    for option in ("finetune_from_model", "restore_file"):
        with pytest.raises(SystemExit, match=RATE):
            pretrain(slower, tmp_path / option, f"++checkpoint.{option}={pretrained}")
    classifier = finetune(data, tmp_path / "classifier", pretrained)
    whole = f"++checkpoint.finetune_from_model={classifier}"
    with pytest.raises(SystemExit, match=RATE):
        finetune(slower, tmp_path / "run", pretrained, whole)
    meant = finetune(slower, tmp_path / "run", pretrained, whole, "++task.allow_mismatch=true")
    # what a training of one's own goes on with is not another model's
    finetune(slower, tmp_path / "run", pretrained, "++optimization.max_epoch=2", "++optimization.max_update=2")
    assert weights(meant)


def test_subsets_of_different_rates_are_refused(data, slower, tmp_path):
    mixed = tmp_path / "mixed"
    for folder, split in ((data, "train"), (slower, "valid")):
        (mixed / split).mkdir(parents=True)
        lines = (folder / f"{split}.tsv").read_text().splitlines()
        (mixed / f"{split}.tsv").write_text("\n".join([str(folder), *lines[1:], ""]))
    with pytest.raises(SystemExit, match="valid.tsv.*sample rate 400 Hz there and 500 Hz here"):
        train_here(mixed, tmp_path / "run", *SMALL, "++optimization.max_update=1")
