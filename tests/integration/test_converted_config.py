"""Converted configs of ECG-FM's framework train with the real command, and what they say arrives."""

import pytest
import torch
from fine_tuning import write_labelled
from omegaconf import OmegaConf
from running import BIN, error_line, run, train, train_command

# of the machine, not of the training; nothing of the model
HERE = [
    "++dataset.num_workers=0",
    "++dataset.batch_size=4",
    "++distributed_training.distributed_world_size=1",
    "++common.cpu=true",
    "++optimization.max_update=2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"), labels=17)


def convert(source, folder):
    """The real command; the new config's text."""
    command = [BIN / "fairseq-signals-ext", "config", "convert", source, "--out", folder / "ours.yaml"]
    done = run([str(part) for part in command])
    assert done.returncode == 0, done.stderr
    return OmegaConf.load(folder / "ours.yaml")


def trained_config(data, folder, *overrides):
    """Config in the checkpoint after two updates."""
    train(data, folder, *HERE, *overrides, config="ours", configs=folder)
    state = torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    return state["cfg"]


def assert_arrived(config, saved, *without):
    """All that the new config says is in the checkpoint's, except what the command line has changed."""
    changed = {override.split("=")[0].strip("+") for override in (*HERE, *without)}
    compared = 0
    for section, values in OmegaConf.to_container(config).items():
        for key, value in values.items():
            if f"{section}.{key}" not in changed and value != "???":
                assert saved[section][key] == value, f"{section}.{key}"
                compared += 1
    return compared


@pytest.mark.slow
def test_pretraining(golden_folder, data, tmp_path):
    config = convert(golden_folder / "tiny_pretrained.yaml", tmp_path)
    saved = trained_config(data, tmp_path)
    assert assert_arrived(config, saved, "checkpoint.save_dir") >= 75
    original = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True)["cfg"]
    for section, key in (
        *(("criterion", key) for key in ("temp", "eps", "infonce", "loss_weights", "log_keys", "cmsc_weights")),
        *(("model", key) for key in ("mask_prob", "mask_length", "num_negatives", "latent_vars", "latent_temp")),
        *(("model", key) for key in ("conv_feature_layers", "encoder_layers", "feature_grad_mult", "dropout_input")),
        *(("task", key) for key in ("perturbation_mode", "p", "mask_leads_prob", "enable_padding")),
        *(("optimizer", key) for key in ("adam_betas", "adam_eps", "weight_decay", "lr")),
        ("lr_scheduler", "warmup_updates"),
        ("optimization", "lr"),
    ):
        assert saved[section][key] == original[section][key], f"{section}.{key}"
    assert saved["criterion"]["cmsc_gather"] is False


@pytest.mark.slow
def test_fine_tuning(golden_folder, data, tmp_path):
    config = convert(golden_folder / "tiny_finetuned.pt", tmp_path)
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={golden_folder / 'tiny_pretrained.pt'}"]
    saved = trained_config(data, tmp_path, *given)
    assert assert_arrived(config, saved, "checkpoint.save_dir", *given) >= 120
    original = torch.load(golden_folder / "tiny_finetuned.pt", weights_only=True)["cfg"]
    for section, key in (
        *(("model", key) for key in ("num_labels", "activation_dropout", "feature_grad_mult", "apply_mask")),
        *(("model", key) for key in ("conv_feature_layers", "encoder_ffn_embed_dim", "conv_pos_groups")),
        *(("criterion", key) for key in ("threshold", "report_auc", "auc_average", "pos_weight")),
        *(("dataset", key) for key in ("valid_subset", "required_batch_size_multiple")),
        ("common", "all_gather_list_size"),
        ("optimizer", "adam_eps"),
        ("optimization", "max_epoch"),
    ):
        assert saved[section][key] == original[section][key], f"{section}.{key}"


@pytest.mark.slow
def test_a_path_that_is_not_given_is_asked_for(golden_folder, data, tmp_path):
    convert(golden_folder / "tiny_finetuned.pt", tmp_path)
    options = [*HERE, f"task.label_file={data / 'labels'}"]
    done = run(train_command(data, tmp_path, *options, config="ours", configs=tmp_path))
    assert "set model.model_path to a checkpoint" in error_line(done)


def test_a_batch_size_that_is_not_given_is_asked_for(golden_folder, data, tmp_path):
    assert convert(golden_folder / "tiny_pretrained.yaml", tmp_path).dataset == {"batch_size": "???"}
    options = [option for option in HERE if "batch_size" not in option]
    done = run(train_command(data, tmp_path, *options, config="ours", configs=tmp_path))
    assert done.returncode == 1
    assert "Must specify batch size either with --max-tokens or --batch-size" in done.stderr
