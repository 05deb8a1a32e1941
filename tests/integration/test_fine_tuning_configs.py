"""Every fine-tuning config that we ship, in every mode, composes and starts."""

import pytest
import torch
from fine_tuning import CONFIGS, finetune, write_labelled, write_pretrained
from made_up import write_label_file
from running import logged, weights

TASKS = ("ecg_interpretation", "reduced_lvef", "abnormal_troponin")
MODES = sorted(path.stem for path in (CONFIGS / "mode").glob("*.yaml"))
ONE_EPOCH = ["++optimization.max_epoch=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_labelled(tmp_path_factory.mktemp("data"))
    (folder / "labels" / "pos_weight.txt").write_text("[1,2,3]\n")
    return folder


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    return write_pretrained(data, tmp_path_factory.mktemp("pretrained"))


def start(data, out, pretrained, config, *options):
    weighted = [f"criterion.pos_weight={data / 'labels' / 'pos_weight.txt'}"]
    return finetune(data, out, pretrained, *weighted, *ONE_EPOCH, *options, config=config)


# the others differ from it by their notes
@pytest.mark.parametrize("config", [TASKS[0], *(pytest.param(task, marks=pytest.mark.slow) for task in TASKS[1:])])
def test_task(data, pretrained, tmp_path, config):
    log = start(data, tmp_path, pretrained, config)
    assert logged(log, "train_lr") == [1e-6]
    assert len(logged(log, "valid_auprc")) == 1
    assert (tmp_path / "checkpoints" / "checkpoint_best.pt").is_file()


def test_layer_decay_with_bf16(data, pretrained, tmp_path):
    log = start(data, tmp_path, pretrained, TASKS[0], "mode=layer_decay", "++common.bf16=true")
    assert len(logged(log, "valid_auprc")) == 1


@pytest.mark.parametrize("mode", MODES)
def test_mode(data, pretrained, tmp_path, mode):
    log = start(data, tmp_path, pretrained, TASKS[0], f"mode={mode}")
    rates = {"full": 1e-6, "linear_probe": 1e-5, "random_start": 1e-5, "layer_decay": 1e-5}
    assert logged(log, "train_lr" if mode != "layer_decay" else "train_lr_default") == [rates[mode]]
    before, after = weights(pretrained), weights(tmp_path / "checkpoints" / "checkpoint_last.pt")
    moved = (after["encoder.encoder.layers.0.fc1.weight"] - before["encoder.layers.0.fc1.weight"]).abs().max()
    # Adam's first updates are as large as the learning rate
    assert {"full": 0 < moved < 1e-5, "linear_probe": moved == 0, "random_start": moved > 1e-2}.get(mode, moved > 0)
    convolutions = [
        weights_of[name + "feature_extractor.conv_layers.0.0.weight"]
        for name, weights_of in (("", before), ("encoder.", after))
    ]
    assert torch.equal(*convolutions) == (mode != "random_start")
    if mode == "layer_decay":
        convolutions = (after["encoder.post_extract_proj.weight"] - before["post_extract_proj.weight"]).abs().max()
        # one layer in the small model: it learns at 0.75, what is below it at 0.75 squared
        assert float(convolutions / moved) == pytest.approx(0.75, rel=0.02)


def test_regression(data, pretrained, tmp_path):
    import numpy as np

    write_label_file(data / "age", np.linspace(30, 80, 16)[:, None], ["age"])
    log = finetune(data, tmp_path, pretrained, f"task.label_file={data / 'age'}", *ONE_EPOCH, config="age")
    assert len(logged(log, "valid_mae")) == 1


def test_the_paper_s_tasks_differ_in_nothing_but_data_and_aggregation():
    from omegaconf import OmegaConf

    configs = [OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml")) for name in TASKS]
    for config in configs:
        assert config.pop("defaults") == ["options/task", "_self_", "classification"]
        assert list(config) == ["task"] and list(config["task"]) == ["aggregate"]
    shared = OmegaConf.load(CONFIGS / "finetune.yaml")
    assert (shared.dataset.batch_size, shared.task.segment) == (256, "random")
