"""An encoder from outside the package: strided convolutions, pretrained, fine-tuned and used by the real commands."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import SMALL_RUN, write_labelled
from omegaconf import OmegaConf
from running import BIN, CONFIGS, error_line, logged, run, train, weights

ENCODER = '''
"""Convolutions with stride, and an objective that regresses what is under a frame: no transformer, no masks."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel

import fairseq_signals_ext

fairseq_signals_ext.register()

from fairseq_signals_ext.checkpoints.architecture import Architecture
from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.criterions.objective import Objective, register_objective
from fairseq_signals_ext.models.encoder import Encoder, padding_of_frames, register_encoder


@dataclass
class ConvolutionsConfig(FairseqDataclass):
    in_d: int = field(default=12, metadata={"help": "leads"})
    width: int = field(default=24, metadata={"help": "features"})
    depth: int = field(default=2, metadata={"help": "layers after the first"})
    patch: int = field(default=50, metadata={"help": "samples per frame"})


@register_encoder("ecg_convolutions", dataclass=ConvolutionsConfig)
class Convolutions(Encoder, BaseFairseqModel):
    architecture = Architecture(
        options=("in_d", "width", "depth", "patch"),
        geometry=lambda config: Geometry(hop=config["patch"], field=config["patch"]),
    )

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.first = torch.nn.Conv1d(cfg.in_d, cfg.width, cfg.patch, cfg.patch)
        self.others = torch.nn.ModuleList(torch.nn.Linear(cfg.width, cfg.width) for _ in range(cfg.depth))

    @classmethod
    def build_model(cls, cfg, task=None):
        return cls(cfg)

    @property
    def dimensions(self):
        return self.cfg.width

    @property
    def layers(self):
        return self.cfg.depth

    def frames(self, source, padding_mask, layer=None):
        x = self.first(source).transpose(1, 2)
        padding = padding_of_frames(x, padding_mask, self.geometry)
        for other in self.others[:layer]:
            x = x + F.gelu(other(x))
        return x.masked_fill(padding.unsqueeze(-1), 0), padding

    def forward(self, source, padding_mask=None):
        return self.encode(source, padding_mask)


@dataclass
class UnderFramesConfig(FairseqDataclass):
    pass


@register_objective("under_frames", dataclass=UnderFramesConfig)
class UnderFrames(Objective, FairseqCriterion):
    needs_signal = True
    needs_head = True

    def __init__(self, cfg, task):
        super().__init__(task)

    def add_head(self, model):
        model.add_head("samples", torch.nn.Linear(model.dimensions, model.cfg.in_d * model.cfg.patch))

    def forward(self, model, sample, reduce=True):
        found = model.heads["samples"](model(**sample["net_input"])["x"])
        target = sample["original"].unflatten(-1, (-1, model.cfg.patch)).transpose(1, 2).flatten(2)
        loss, size = F.mse_loss(found, target, reduction="sum"), target.numel()
        return loss, size, {"loss": loss.item(), "sample_size": size, "ntokens": size, "nsentences": len(target)}

    @staticmethod
    def reduce_metrics(logs):
        size = sum(log["sample_size"] for log in logs)
        metrics.log_scalar("loss", sum(log["loss"] for log in logs) / size, size, round=4)

    @staticmethod
    def logging_outputs_can_be_summed():
        return True
'''
TWO = ["++optimization.max_update=2", "++dataset.validate_interval=1", "++common.log_interval=1"]


def config_of(user_dir, name, template, **sections):
    config = OmegaConf.load(template / "tiny.yaml")
    for section, values in sections.items():
        config[section] = values
    (user_dir / f"{name}.yaml").write_text(f"# @package _global_\n{OmegaConf.to_yaml(config)}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data, the user's folder, the pretrained and the fine-tuned checkpoint, and the log of the latter."""
    folder = tmp_path_factory.mktemp("convolutions")
    data = write_labelled(folder / "data")
    user_dir = folder / "convolutional_encoder"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(ENCODER)
    model = {"_name": "ecg_convolutions", "width": 16}
    config_of(user_dir, "pretrain_it", CONFIGS, model=model, criterion={"_name": "under_frames"})
    options = [*SMALL_RUN, f"common.user_dir={user_dir}", *TWO]
    train(data, folder / "pretraining", *options, config="pretrain_it", configs=user_dir)
    pretrained = folder / "pretraining" / "checkpoints" / "checkpoint_last.pt"
    config_of(user_dir, "tune_it", FINE_TUNING)
    options += [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}"]
    log = train(data, folder / "tuning", *options, config="tune_it", configs=user_dir)
    return data, user_dir, pretrained, folder / "tuning" / "checkpoints" / "checkpoint_last.pt", log


def command(trained, *arguments):
    """Ours, with the user's folder."""
    return run([str(BIN / "fairseq-signals-ext"), *map(str, arguments), "--user-dir", str(trained[1])])


def succeeds(trained, *arguments):
    done = command(trained, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_classifier_starts_from_it(trained):
    _, _, pretrained, tuned, log = trained
    assert logged(log, "valid_auroc")
    before, after = weights(pretrained), weights(tuned)
    assert "heads.samples.weight" in before and not [name for name in after if "heads" in name]
    config = torch.load(tuned, weights_only=True)["cfg"]["model"]
    assert config["encoder"] == {"_name": "ecg_convolutions", "in_d": 12, "width": 16, "depth": 2, "patch": 50}
    # after two updates of a small rate it is still near
    torch.testing.assert_close(after["encoder.first.weight"], before["first.weight"], rtol=0, atol=0.01)


@pytest.mark.slow
def test_a_query_of_all_its_layers(trained, tmp_path):
    data, user_dir, pretrained, _, _ = trained
    options = [*SMALL_RUN, f"common.user_dir={user_dir}", *TWO, f"task.label_file={data / 'labels'}"]
    head = ["model.pooling=query", "model.layers=mix", f"model.model_path={pretrained}"]
    train(data, tmp_path / "run", *options, *head, config="tune_it", configs=user_dir)
    tuned = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    assert weights(tuned)["layer_mix.weights"].shape == (3,)
    succeeds(trained, "export", tuned, "--to", "onnx", "--out", tmp_path / "onnx")  # which compares outputs


def test_predict(trained, tmp_path):
    data, _, _, tuned, _ = trained
    succeeds(trained, "predict", tuned, data / "test.tsv", "--out", tmp_path / "p", "--device", "cpu")
    table = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert len(table) == 16 and table["probability_label_0"].between(0, 1).all()


@pytest.mark.slow
def test_exports_give_the_same(trained, tmp_path):
    data, _, _, tuned, _ = trained
    found = []
    for to in ("onnx", "torchscript", "safetensors"):
        succeeds(trained, "export", tuned, "--to", to, "--out", tmp_path / to)
        succeeds(trained, "predict", tmp_path / to, data / "test.tsv", "--out", tmp_path / f"p{to}", "--device", "cpu")
        found.append(pd.read_csv(tmp_path / f"p{to}" / "predictions.csv")["probability_label_1"].to_numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)


@pytest.mark.slow
def test_an_export_needs_nobodys_folder(trained, tmp_path):
    data, _, _, tuned, _ = trained
    succeeds(trained, "export", tuned, "--to", "onnx", "--out", tmp_path / "onnx")
    files = [str(tmp_path / "onnx"), str(data / "test.tsv"), "--out", str(tmp_path / "p")]
    done = run([str(BIN / "fairseq-signals-ext"), "predict", *files, "--device", "cpu"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options, shape", [((), (16, 16)), (("--per", "frame", "--layer", "1"), None)])
def test_embed(trained, tmp_path, options, shape):
    """A segment of 2,500 samples has 50 frames."""
    data, _, pretrained, _, _ = trained
    out = tmp_path / "embedded"
    succeeds(trained, "embed", pretrained, data / "test.tsv", "--out", out, "--device", "cpu", *options)
    found = np.load(out / "embeddings.npy")
    assert found.shape == shape if shape else found.shape[1] == 16 and found.shape[0] % 50 == 0


def test_explain(trained, tmp_path):
    data, _, _, tuned, _ = trained
    files = (tuned, data / "test.tsv", "--device", "cpu")
    succeeds(trained, "explain", *files, "--out", tmp_path / "gradient", "--method", "gradient")
    done = command(trained, "explain", *files, "--out", tmp_path / "attention", "--method", "attention")
    assert "its encoder has no attention; use the method gradient or occlusion" in error_line(done)
    assert not (tmp_path / "attention").exists()


def test_inspect(trained):
    told = json.loads(succeeds(trained, "inspect", trained[3], "--json"))
    assert told["model"]["encoder"] == "ecg_convolutions" and told["model"]["samples_per_frame"] == 50
    assert told["model"]["frames_per_segment"] == 50 and told["model"]["width"] == 16


def test_evaluate_agrees_with_predict(trained, tmp_path):
    data, _, _, tuned, _ = trained
    of_test = ("--data", data, "--subset", "test", "--resamples", 20, "--device", "cpu", "--jobs", 0)
    succeeds(trained, "evaluate", tuned, *of_test, "--out", tmp_path / "e")
    succeeds(trained, "predict", tuned, data / "test.tsv", "--out", tmp_path / "p", "--device", "cpu")
    found = pd.read_parquet(tmp_path / "e" / "predictions.parquet")["probability_label_0"]
    predicted = pd.read_csv(tmp_path / "p" / "predictions.csv")["probability_label_0"]
    np.testing.assert_allclose(predicted, found, atol=1e-5)


def test_a_checkpoint_cannot_name_what_is_not_registered(trained, tmp_path):
    """fairseq's own model evaluates this text as Python."""
    state = torch.load(trained[3], weights_only=True)
    state["cfg"]["model"]["encoder"] = {"_name": "wav2vec2", "conv_feature_layers": "print('run')"}
    torch.save(state, tmp_path / "bad.pt")
    done = command(trained, "predict", tmp_path / "bad.pt", trained[0] / "test.tsv", "--out", tmp_path / "p")
    assert "its model.encoder is" in error_line(done) and "run" not in done.stdout.split()


def test_sizes_in_a_checkpoint_are_bounded(trained, tmp_path):
    state = torch.load(trained[3], weights_only=True)
    state["cfg"]["model"]["encoder"]["width"] = 10**9
    torch.save(state, tmp_path / "bad.pt")
    done = command(trained, "predict", tmp_path / "bad.pt", trained[0] / "test.tsv", "--out", tmp_path / "p")
    assert "its model.width is 1000000000, not a number up to 65,536" in error_line(done)
