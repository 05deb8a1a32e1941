"""Stock fairseq 0.12.2 with hydra 1.0 on Python 3.10: its own commands, on small data. Run by make test-legacy."""

import os
import sys

import numpy as np
import pytest
import torch
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import validate_command, write_labelled
from made_up import write_label_file, write_shards
from running import CONFIGS as PRETRAINING
from running import SMALL, error_line, logged, run, train, train_command, weights

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 11), reason="stock fairseq 0.12.2 is for Python 3.8 to 3.10: see make test-legacy"
)

# hydra 1.0 knows no `++`; the options here are in the config files or fairseq's own, which are set without
PLAIN = [option.lstrip("+") for option in SMALL]
PLAIN_RUN = [option for option in PLAIN if not option.startswith("model.")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"))


def pretrain(data, out, *options):
    return train(data, out, *PLAIN, *options, configs=PRETRAINING)


def finetune(data, out, pretrained, *options):
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}"]
    return train(data, out, *given, *PLAIN_RUN, *options, configs=FINE_TUNING)


def last(out):
    return out / "checkpoints" / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained")
    return out, pretrain(data, out, "optimization.max_update=10")


@pytest.fixture(scope="module")
def finetuned(data, pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned")
    return out, finetune(data, out, last(pretrained[0]), "optimization.max_update=10")


def test_it_is_stock_fairseq():
    from importlib.metadata import version

    assert version("fairseq") == "0.12.2" and version("hydra-core").startswith("1.0.")


def test_pretraining(pretrained):
    log = pretrained[1]
    assert logged(log, "train_num_updates")[-1] == 10
    losses = logged(log, "train_loss_0")
    assert losses[-1] < losses[0]
    # some old torch has wrong gradients of 1e15 and more here
    assert 0 < max(logged(log, "train_gnorm")) < 1000
    assert len(logged(log, "valid_cmsc_accuracy")) == 1


def test_resumed_pretraining_equals_an_unbroken_one(data, pretrained, tmp_path):
    """Time masks repeat with the batch."""
    for updates in (4, 10):
        pretrain(data, tmp_path, f"optimization.max_update={updates}")
    expected, found = weights(last(pretrained[0])), weights(last(tmp_path))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_finetuning_and_validating(data, finetuned):
    out, log = finetuned
    assert logged(log, "train_num_updates")[-1] == 10
    done = run(validate_command(data, last(out), "valid,test"))
    assert done.returncode == 0, done.stderr[-3000:]
    for metric in ("auroc", "auprc", "loss", "accuracy"):
        expected = logged(log, f"valid_{metric}")[-1]
        assert logged(done.stdout, f"valid_{metric}") == pytest.approx([expected], rel=1e-5), metric
        assert logged(done.stdout, f"test_{metric}") == pytest.approx([expected], rel=1e-5), metric


def test_golden_values(golden_folder, registered):
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    golden = np.load(golden_folder / "tiny_golden.npz")
    source = torch.from_numpy(golden["source"])
    (model,), _, _ = load_model_ensemble_and_task([str(golden_folder / "tiny_pretrained.pt")])
    (classifier,), _, _ = load_model_ensemble_and_task([str(golden_folder / "tiny_finetuned.pt")])
    with torch.no_grad():
        encoder_out = model.eval().extract_features(source)["x"].numpy()
        logits = classifier.eval()(source)["out"].numpy()
    assert np.abs(logits - golden["clf_logits"]).max() <= 1e-6
    # of its largest value: the golden values themselves are 3e-6 away from those in double precision
    assert np.abs(encoder_out - golden["encoder_out"]).max() <= 1e-6 * np.abs(golden["encoder_out"]).max()


def test_validating_a_golden_checkpoint(golden_folder, tmp_path):
    write_shards(tmp_path, [5000] * 8, split="test")
    labels = write_label_file(tmp_path / "labels", np.random.default_rng(2).integers(0, 2, (8, 17)))
    command = validate_command(tmp_path, golden_folder / "tiny_finetuned.pt", "test", "--label-file", labels)
    done = run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < logged(done.stdout, "test_auroc")[0] < 1


def test_finetuning_a_golden_checkpoint(data, golden_folder, tmp_path):
    golden = golden_folder / "tiny_pretrained.pt"
    finetune(data, tmp_path, golden, "optimization.max_update=1", "model.feature_grad_mult=0.0")
    name = "feature_extractor.conv_layers.0.0.weight"
    assert torch.equal(weights(last(tmp_path))[f"encoder.{name}"], weights(golden)[name])


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_run(data, finetuned, tmp_path):
    """torch before 2.6 would."""
    state = torch.load(last(finetuned[0]), weights_only=True)
    torch.save({**state, "more": Malicious(tmp_path / "made")}, tmp_path / "malicious.pt")
    line = error_line(run(validate_command(data, tmp_path / "malicious.pt", "test")))
    assert "malicious.pt: holds more than data (posix.mkdir)" in line
    assert not (tmp_path / "made").exists()


def test_a_mistake_is_one_line(data, tmp_path):
    options = [*PLAIN, "dataset.train_subset=nosuch"]
    line = error_line(run(train_command(data, tmp_path, *options)))
    assert "nosuch.tsv: no such manifest" in line
