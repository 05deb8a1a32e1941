import json
import subprocess
import sys

import pytest
import torch
from made_up_checkpoints import LABELS, saved_checkpoint

from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing, write_description
from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.common.errors import UserError


def counted(path):
    """Number of parameters in a file, the plain way."""
    return sum(value.numel() for value in torch.load(path, weights_only=True)["model"].values())


@pytest.fixture(scope="module")
def golden(golden_folder):
    return {name: inspect_model(golden_folder / f"{name}.pt") for name in ("tiny_pretrained", "tiny_finetuned")}


def test_model_and_parameters(golden, golden_folder):
    pretrained, finetuned = golden["tiny_pretrained"], golden["tiny_finetuned"]
    for name, facts in golden.items():
        path = golden_folder / f"{name}.pt"
        parameters = facts["parameters"]
        assert parameters["total"] == counted(path) == sum(parameters["parts"].values())
        assert parameters["dtypes"] == {"float32": parameters["total"]} and "other" not in parameters["parts"]
        assert facts["file"] == {"name": path.name, "format": "checkpoint", "bytes": path.stat().st_size}
        assert (facts["model"]["layers"], facts["model"]["dimensions"], facts["model"]["heads"]) == (2, 64, 4)
    # by hand from the sizes: 12 leads, 32 features, kernel 2; group norm of the first
    convolutions = 32 * 12 * 2 + 3 * 32 * 32 * 2 + 2 * 32
    transformer = 2 * (4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 4 * 64) + 2 * 64
    shared = {
        "convolutions": convolutions,
        "projection": 32 * 64 + 64 + 2 * 32,
        "positional convolution": 64 * 64 // 4 * 16 + 16 + 64,
        "transformer": transformer,
    }
    assert finetuned["parameters"]["parts"] == {**shared, "head": 17 * 64 + 17}
    quantizer = 2 * 32 * 16 + (32 * 64 + 64) + (32 * 32 + 32)
    assert pretrained["parameters"]["parts"] == {
        **shared,
        "quantizer": quantizer,
        "mask": 64,
        "pretraining heads": 64 * 32 + 32,
    }


def test_frames(golden, tmp_path):
    facts = golden["tiny_pretrained"]["model"]
    assert (facts["samples_per_frame"], facts["frames_per_second"], facts["frames_per_segment"]) == (16, 31.25, 156)
    assert facts["receptive_field_samples"] == 16 and facts["receptive_field_ms"] == 32
    path = saved_checkpoint(tmp_path / "other.pt", conv_feature_layers="[(16, 10, 5)] + [(16, 3, 2)] * 2")
    facts = inspect_model(path)["model"]
    # a sample moves the output of a frame if it is seen: with zeros elsewhere, those of one frame are counted
    convolutions = torch.nn.Sequential(*(torch.nn.Conv1d(1, 1, k, s) for k, s in ((10, 5), (3, 2), (3, 2))))
    signal = torch.zeros(1, 1, 500, requires_grad=True)
    output = convolutions(signal)
    output[0, 0, 3].backward()
    seen = signal.grad[0, 0].nonzero()
    assert facts["receptive_field_samples"] == len(seen) and facts["samples_per_frame"] == seen[0] / 3 == 20
    assert facts["frames_per_segment"] == output.shape[-1]


def test_training_and_progress(golden):
    training, progress = golden["tiny_pretrained"]["training"], golden["tiny_pretrained"]["progress"]
    assert training["optimizer"]["_name"] == "adam" and training["optimizer"]["adam_betas"] == "(0.9, 0.98)"
    assert training["learning_rate"] == [5e-5] and "lr" not in training["optimizer"]
    assert (training["batch_size"], training["gpus"], training["update_freq"]) == (64, 4, [2])
    assert training["items_per_update"] == [512]
    assert (training["precision"], training["seed"], training["data"]) == ("fp32", 1, "manifests/cmsc")
    assert training["objective"]["loss_weights"] == [0.1, 10.0]
    assert training["time_masks"] == {"prob": 0.65, "length": 10, "selection": "static"}
    masking = training["augmentations"]["random_leads_masking"]
    assert masking == {
        "p": 1.0,
        "mask_leads_selection": "random",
        "mask_leads_prob": 0.5,
        "mask_leads_condition": [4, 5],
    }
    # `metrics` is an empty list there
    assert (progress["updates"], progress["epoch"], progress["metrics"]) == (123, 3, {})
    assert golden["tiny_finetuned"]["training"]["time_masks"] is None
    assert golden["tiny_finetuned"]["training"]["augmentations"] == {}
    assert golden["tiny_finetuned"]["training"]["pretrained"] == "tiny_pretrained.pt"
    assert golden["tiny_finetuned"]["optimizer_state"] == {"saved": False, "bytes": 0}


def with_state(path, **state):
    """The checkpoint with more in it."""
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, **state}, path)
    return path


def meter(total, count, value=0.0):
    return {"sum": total, "count": count, "val": value, "round": 3}


def test_metrics_best_and_optimizer(tmp_path):
    metrics = {
        "default": [(10, "loss", "AverageMeter", meter(1.0, 1))],
        "train": [
            (10, "loss", "AverageMeter", meter(torch.tensor(6.0), 4)),
            (20, "_correct", "AverageMeter", meter(1.0, 1)),
            (90, "wps", "TimeMeter", {"init": 1.0, "n": 1, "round": 1}),
            (300, "lr", "AverageMeter", meter(0, 0, 5e-5)),
        ],
        "valid": [(10, "loss", "AverageMeter", meter(float("nan"), 1))],
    }
    extra = {"metrics": metrics, "best": float("inf"), "val_loss": 0.5, "previous_training_time": 90.0}
    states = [{"exp_avg": torch.zeros(3, 5), "step": 7}, {"exp_avg": torch.zeros(2, dtype=torch.float16)}]
    path = saved_checkpoint(tmp_path / "checkpoint.pt", "regression")
    facts = inspect_model(with_state(path, extra_state=extra, last_optimizer_state={"state": states}))
    progress = facts["progress"]
    assert progress["metrics"] == {"train": {"loss": 1.5, "lr": 5e-5}, "valid": {"loss": None}}
    assert (progress["best"], progress["last_validation"], progress["training_seconds"]) == (None, 0.5, 90.0)
    assert facts["optimizer_state"] == {"saved": True, "bytes": 3 * 5 * 4 + 2 * 2}
    json.dumps(facts, allow_nan=False)


def test_labels_and_preprocessing(golden, tmp_path):
    facts = inspect_model(saved_checkpoint(tmp_path / "checkpoint.pt"))
    labels = facts["labels"]
    assert labels["names_are_known"] is True and labels["threshold_rule"] == "f1 on valid"
    assert [label["name"] for label in labels["labels"]] == list(LABELS)
    assert [label["threshold"] for label in labels["labels"]] == [0.25, 0.5, 0.75]
    assert facts["preprocessing"]["sample_rate_hz"] == 500 and len(facts["preprocessing"]["leads"]) == 12
    regression = inspect_model(saved_checkpoint(tmp_path / "regression.pt", "regression"))
    assert regression["model"]["kind"] == "regression"
    assert regression["labels"]["labels"][1] == {"name": "B", "aggregation": "mean", "mean": -2.0, "std": 0.1}
    assert golden["tiny_finetuned"]["labels"]["names_are_known"] is False
    assert "labels" not in golden["tiny_pretrained"]


def test_numbers_of_several_kinds(tmp_path):
    path = saved_checkpoint(tmp_path / "checkpoint.pt")
    state = torch.load(path, weights_only=True)
    state["model"] = {name: value.half() if "proj" in name else value for name, value in state["model"].items()}
    state["model"]["something.new"] = torch.zeros(7)
    state["cfg"]["common"] = {"bf16": True}
    torch.save(state, path)
    facts = inspect_model(path)
    assert facts["parameters"]["parts"]["other"] == 7 and facts["training"]["precision"] == "bf16"
    assert set(facts["parameters"]["dtypes"]) == {"float32", "float16"}
    assert sum(facts["parameters"]["dtypes"].values()) == counted(path)


def test_a_task_that_is_not_here(golden_folder, tmp_path):
    """There is no description of it, but much to say all the same."""
    state = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True)
    state["cfg"]["task"]["_name"] = "ecg_question_answering"
    torch.save(state, tmp_path / "other.pt")
    facts = inspect_model(tmp_path / "other.pt")
    assert facts["model"]["kind"] == "unknown" and "'ecg_question_answering'" in facts["model"]["note"]
    assert facts["training"]["task"] == "ecg_question_answering" and "preprocessing" not in facts
    assert facts["parameters"]["total"] == counted(golden_folder / "tiny_pretrained.pt")


def test_export(tmp_path):
    architecture = {"_name": "ecg_transformer_classifier", "conv_feature_layers": "[(16, 2, 2)] * 4", "num_labels": 1}
    description = ModelDescription(
        kind="classification",
        architecture=architecture,
        preprocessing=Preprocessing(sample_rate=250.0, segment_samples=1250),
        label_names=("AF",),
        thresholds=(0.4,),
        aggregation=("max",),
        provenance={"updates": 5},
    )
    (tmp_path / "model.onnx").write_bytes(b"12345")
    write_description(description, "model.onnx", tmp_path)
    facts = inspect_model(tmp_path)
    assert facts["file"] == {"name": "model.onnx", "format": "export, onnx", "bytes": 5}
    assert facts["labels"]["labels"] == [{"name": "AF", "threshold": 0.4, "aggregation": "max"}]
    assert facts["model"]["frames_per_second"] == 250 / 16 and facts["provenance"] == {"updates": 5}
    assert "training" not in facts and "parameters" not in facts
    training = {"cfg": {"model": architecture, "optimization": {"lr": [0.1]}}, "task_state": {}}
    write_description(description, "model.onnx", tmp_path, training)
    assert inspect_model(tmp_path)["training"]["learning_rate"] == [0.1]


def test_not_a_model(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    for path, message in (
        (tmp_path / "text.pt", "text.pt: is a text, not a checkpoint"),
        (tmp_path / "no.pt", "no.pt: no such checkpoint"),
        (tmp_path / "empty", "config.json: no such file; give a folder that fairseq-signals-ext export made"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message) as error:
            inspect_model(path)
        assert "\n" not in str(error.value)


def test_folder_with_one_checkpoint(tmp_path):
    """As an export for ECG-FM's tools."""
    path = saved_checkpoint(tmp_path / "one.pt")
    assert inspect_model(tmp_path) == inspect_model(path)
    saved_checkpoint(tmp_path / "two.pt")
    with pytest.raises(UserError, match="config.json: no such file"):
        inspect_model(tmp_path)


_WATCHED = """
import resource, sys
import torch
from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from pathlib import Path

inspect_model(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(inspect_model(Path(sys.argv[2]))["parameters"]["total"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(sorted({name.split(".")[0] for name in sys.modules} & {"fairseq", "hydra", "omegaconf", "pandas"}))
"""


def test_a_large_file_costs_no_memory_and_fairseq_is_not_needed(tmp_path):
    small = saved_checkpoint(tmp_path / "small.pt")
    state = torch.load(small, weights_only=True)
    state["model"]["large"] = torch.ones(32, 1024, 1024)
    torch.save({**state, "last_optimizer_state": [torch.ones(16, 1024, 1024)]}, tmp_path / "large.pt")
    command = [sys.executable, "-c", _WATCHED, str(small), str(tmp_path / "large.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, kilobytes, imported = done.stdout.splitlines()
    assert int(total) == counted(tmp_path / "large.pt")
    assert int(kilobytes) < 20_000, "of 192 MB"
    assert imported == "[]"
