"""What a user gets wrong in fine-tuning and validating ends with one line and a non-zero status.

The command itself is run for some mistakes; the others are made in this process, which takes a tenth of it.
"""

import shutil

import numpy as np
import pytest
import torch
from fine_tuning import (
    CONFIGS,
    SMALL_RUN,
    finetune,
    finetune_command,
    validate_command,
    write_labelled,
    write_pretrained,
)
from in_process import train_here
from made_up import write_label_file, write_shards
from running import error_line, mistake_of, run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = write_labelled(tmp_path_factory.mktemp("data"))
    return folder, write_pretrained(folder, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture()
def data(prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture()
def line_of(prepared, data, tmp_path):
    def start(*options, pretrained=prepared[1], config="tiny"):
        given = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *options]
        return mistake_of(train_here, data, tmp_path / "run", *given, config=config, configs=CONFIGS)

    return start


def test_label_file_is_shorter_than_the_recordings(prepared, data, tmp_path):
    write_label_file(data / "labels", np.zeros((9, 3)))
    line = error_line(run(finetune_command(data, tmp_path / "run", prepared[1])))
    assert "y.npy: has 9 rows, but there is a recording with idx 9; the label file belongs to other" in line


def test_label_that_is_always_unknown(data, line_of):
    values = np.random.default_rng(0).integers(0, 2, (16, 3)).astype(float)
    values[:, 1] = np.nan
    write_label_file(data / "labels", values, ["AF", "RBBB", "SB"])
    assert "label 'RBBB': not known of any recording of" in line_of()


def test_num_labels_differs_from_the_label_file(line_of):
    assert "labels/y.npy: 3 labels, but the model has num_labels=17" in line_of("++model.num_labels=17")


def test_no_label_file(line_of):
    line = line_of("task.label_file=null", "++model.num_labels=3")
    assert "valid.tsv: no labels for these recordings; set task.label_file" in line


@pytest.mark.slow
def test_missing_label_file(line_of):
    assert "nowhere/y.npy: no such label file" in line_of("task.label_file=/nowhere/y.npy")


@pytest.mark.slow
def test_values_that_are_no_classes(data, line_of):
    write_label_file(data / "labels", np.full((16, 1), 61.0), ["age"])
    line = line_of()
    assert "label 'age': 61 is neither 0, 1 nor unknown; train such a value with task ecg_regression" in line


def test_pretrained_file_of_another_architecture(line_of):
    line = line_of("++model.encoder_layers=3")
    assert "is of another architecture than the model here: it lacks encoder.layers.1" in line


@pytest.mark.slow
def test_pretrained_file_is_missing(line_of):
    assert "nowhere.pt: no such checkpoint; correct model.model_path" in line_of(pretrained="/nowhere.pt")


def test_neither_pretrained_file_nor_random_start(line_of):
    assert "no pretrained encoder: set model.model_path" in line_of(pretrained="null")


@pytest.mark.parametrize("subset", ["train", "valid"])
def test_empty_subset(data, line_of, subset):
    (data / f"{subset}.tsv").write_text(".\n")
    assert f"{subset}.tsv: the manifest is empty" in line_of()


def test_subset_without_a_whole_segment(data, line_of):
    write_shards(data / "short", [1000] * 4, split="valid")
    (data / "valid.tsv").write_text((data / "short/valid.tsv").read_text().replace(".\n", "short\n", 1))
    line = line_of("++task.enable_padding=false")
    assert "valid.tsv: none of 4 recordings has 5 s at 500 Hz" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights, said",
    [("[1, 2]", "2 numbers for 3 labels"), ("3.2", "not a list of positive"), ("nowhere.txt", "nowhere.txt")],
)
def test_pos_weight(line_of, weights, said):
    assert said in line_of(f"criterion.pos_weight={weights}")


@pytest.mark.slow
def test_cinc_score_without_weights(line_of):
    assert "needs criterion.weights_file" in line_of("++criterion.report_cinc_score=true")


@pytest.mark.slow
def test_cinc_score_without_sinus_rhythm(ecg_data, data, line_of):
    weights_file = ecg_data / "cinc2021" / "scoring" / "weights.csv"
    options = ["++criterion.report_cinc_score=true", f"++criterion.weights_file={weights_file}"]
    assert "no class" in line_of(*options) and "sinus rhythm" in line_of(*options)


def test_best_metric_that_is_not_logged(line_of):
    line = line_of("++criterion.report_auc=false")
    assert "checkpoint.best_checkpoint_metric=auprc is not logged here; use loss, accuracy" in line


def test_criterion_that_does_not_fit_the_task(line_of):
    assert "criterion binary_cross_entropy_with_logits does not fit task ecg_regression; use regression" in line_of(
        "task._name=ecg_regression"
    )


def test_validation_without_a_defined_label(data, line_of):
    write_label_file(data / "labels", np.ones((16, 3)))
    assert "valid.tsv: auprc, which chooses the best checkpoint, is undefined here" in line_of()


@pytest.mark.slow
def test_pairs(line_of):
    assert "task.pairs=random: pairs are for pretraining" in line_of("++task.pairs=random")


@pytest.mark.slow
def test_combined_validation_sets(line_of):
    assert "dataset.combine_valid_subsets is not supported" in line_of("++dataset.combine_valid_subsets=true")


@pytest.mark.slow
def test_linear_probe_with_layer_decay(line_of):
    line = line_of("++model.linear_probe=true", "++model.layer_decay=0.5")
    assert "model.linear_probe trains the head only, so model.layer_decay has no effect" in line


HEADS = {
    "model.pooling=foo": "model.pooling: Invalid value 'foo', expected one of [mean, attention, query, mean_std]",
    "model.layers=99": "model.layers=99: the encoder has layers 0 to 1; use one of them, last or mix",
    "model.layers=middle": "model.layers=middle: the encoder has layers 0 to 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("option, said", HEADS.items(), ids=HEADS.keys())
def test_heads_that_cannot_be(line_of, option, said):
    assert said in line_of(option)


def test_heads_of_a_query_that_do_not_divide(line_of):
    line = line_of("model.pooling=query", "model.pooling_heads=3")
    assert "model.pooling_heads=3 does not divide the encoder's 32 dimensions; give a divisor, such as 2" in line


def test_layer_decay_with_an_optimizer_that_ignores_it(line_of):
    assert "model.layer_decay=0.5 has no effect here; use optimizer composite" in line_of("++model.layer_decay=0.5")


def test_labels_that_the_checkpoint_does_not_have(prepared, data, tmp_path):
    finetune(data, tmp_path / "run", prepared[1], "++optimization.max_epoch=1")
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    write_label_file(data / "labels", np.load(data / "labels" / "y.npy"), ["a", "b", "c"])
    line = error_line(run(validate_command(data, checkpoint, "test")))
    assert "has none of the checkpoint's labels, label_0, label_1, label_2, but a, b, c" in line


def test_validating_with_other_labels(golden_folder, data):
    line = error_line(
        run(validate_command(data, golden_folder / "tiny_finetuned.pt", "test", "--label-file", data / "labels"))
    )
    assert "labels/y.npy: 3 labels, but the model has num_labels=17; the checkpoint does not name them" in line


def test_missing_folder(line_of):
    assert "/nowhere: no such folder; give task.data a folder with manifests" in line_of("task.data=/nowhere")


def test_weights_that_nobody_gave(line_of):
    assert "pos_weight.txt: " in line_of(config="ecg_interpretation")


def test_checkpoint_with_a_renamed_parameter(golden_folder, data, tmp_path):
    state = torch.load(golden_folder / "tiny_finetuned.pt", weights_only=True)
    state["model"]["head.weight"] = state["model"].pop("proj.weight")
    torch.save(state, tmp_path / "renamed.pt")
    line = error_line(run(validate_command(data, tmp_path / "renamed.pt", "test")))
    assert "it lacks proj.weight; it has the unknown head.weight" in line
