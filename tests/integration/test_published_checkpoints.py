"""ECG-FM's files as they are published, through the commands: what they compute stays what it is (golden values).

`fairseq-validate --path` of the classifier is in test_finetuning.py.
"""

from pathlib import Path

import fine_tuning
import numpy as np
import pytest
import torch
from fine_tuning import finetune, validate_command, write_labelled
from running import error_line, logged, run, train, train_command, weights

from fairseq_signals_ext.checkpoints.architecture import to_ecg_fm_names
from fairseq_signals_ext.common.leads import LEADS

# the architecture of the golden checkpoints
GOLDEN = [
    *("++model.encoder_layers=2", "++model.encoder_embed_dim=64", "++model.encoder_ffn_embed_dim=128"),
    *("++model.encoder_attention_heads=4", "++model.conv_feature_layers='[(32,2,2)]*4'", "++model.conv_pos=16"),
    *("++model.conv_pos_groups=4", "++model.final_dim=32", "++model.latent_vars=32", "++model.num_negatives=20"),
    *("++dataset.batch_size=4", "++dataset.num_workers=0", "++common.cpu=true", "++dataset.disable_validation=true"),
    "++distributed_training.distributed_world_size=1",
]
# an update that changes nothing
STILL = ["++optimization.max_update=1", "++optimization.lr=[0.0]", "++optimizer.weight_decay=0.0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def golden(golden_folder):
    return np.load(golden_folder / "tiny_golden.npz")


def loaded(checkpoint: Path):
    """The model of a checkpoint, by fairseq's own loader."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    import fairseq_signals_ext

    fairseq_signals_ext.register()
    (model,), _, _ = load_model_ensemble_and_task([str(checkpoint)])
    return model.eval()


@pytest.mark.parametrize("option", ["model.model_path", "checkpoint.finetune_from_model"])
def test_fine_tuning_starts_from_the_published_encoder(data, golden_folder, golden, tmp_path, option):
    published = golden_folder / "tiny_pretrained.pt"
    pretrained = published if option == "model.model_path" else "null"
    options = () if option == "model.model_path" else (f"++{option}={published}",)
    finetune(data, tmp_path, pretrained, *options, *STILL, "++dataset.disable_validation=true")
    model = loaded(tmp_path / "checkpoints/checkpoint_last.pt")
    with torch.no_grad():
        found = model(torch.from_numpy(golden["source"]))["encoder_out"].numpy()
    assert np.abs(found - golden["encoder_out"]).max() <= 1e-6


def test_pretraining_starts_from_the_published_model(data, golden_folder, golden, tmp_path):
    published = golden_folder / "tiny_pretrained.pt"
    train(data, tmp_path, *GOLDEN, *STILL, f"++checkpoint.finetune_from_model={published}")
    saved = tmp_path / "checkpoints/checkpoint_last.pt"
    found = to_ecg_fm_names(weights(saved))
    expected = weights(published)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model = loaded(saved)
    with torch.no_grad():
        masks = torch.from_numpy(golden["mask_indices"])
        out = model(torch.from_numpy(golden["source"]), mask_indices=masks)["features"].numpy()
    assert np.abs(out - golden["masked_encoder_out"]).max() <= 1e-6
    losses = [validated(data, checkpoint) for checkpoint in (published, saved)]
    assert losses[0] == losses[1]


def validated(data, checkpoint):
    """Diversity, feature penalty and CMSC, of fairseq-validate; it draws other negatives each time for the rest."""
    done = run(validate_command(data, checkpoint, "valid", task="ecg_pretraining"))
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [logged(done.stdout + done.stderr, f"valid_{part}") for part in ("loss_1", "loss_2", "loss_3")]
    assert all(len(loss) == 1 for loss in losses), losses
    return losses


def test_pretraining_continues_from_the_published_model(data, golden_folder, tmp_path):
    published = golden_folder / "tiny_pretrained.pt"
    log = train(data, tmp_path, *GOLDEN, "++optimization.max_update=2", f"++checkpoint.restore_file={published}")
    before, after = weights(published), weights(tmp_path / "checkpoints/checkpoint_last.pt")
    assert f"Loaded checkpoint {published} (epoch 3 @ 0 updates)" in log
    change = (after["final_proj.weight"] - before["final_proj.weight"]).abs()
    assert 0 < change.max() < 0.1
    state = torch.load(tmp_path / "checkpoints/checkpoint_last.pt", weights_only=True)["task_state"]
    assert (state["sample_rate"], state["segment_samples"], state["leads"]) == (500.0, 2500, list(LEADS))


def test_optimizer_of_ecg_fm_is_not_taken_for_ours(data, golden_folder, tmp_path):
    state = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True)
    state["last_optimizer_state"] = {"state": {}, "param_groups": []}
    torch.save(state, tmp_path / "published.pt")
    option = f"++checkpoint.restore_file={tmp_path / 'published.pt'}"
    line = error_line(run(train_command(data, tmp_path / "run", *GOLDEN, *STILL, option)))
    assert "published.pt: is of ECG-FM's framework, whose optimizer state is of another order" in line
    assert "checkpoint.reset_optimizer=true" in line


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def renamed(state):
    state["model"]["encoder.layers.0.fc7.weight"] = state["model"].pop("encoder.layers.0.fc1.weight")


def malicious(state):
    state["extra_state"]["metrics"] = Evil()


def audio(state):
    first = "feature_extractor.conv_layers.0.0.weight"
    state["model"][first] = state["model"][first][:, :1].clone()
    state["cfg"]["model"] = {"_name": "wav2vec2"}
    state["cfg"]["task"] = {"_name": "audio_pretraining", "data": "librispeech"}


REFUSED = {
    "cut short": (None, "bad.pt: is damaged or cut short; copy or download it again"),
    "renamed key": (renamed, "it lacks encoder.layers.0.fc1.weight; it has the unknown encoder.layers.0.fc7.weight"),
    "malicious pickle": (malicious, "holds more than data (print), which could run code"),
    "audio wav2vec 2.0": (audio, "is fairseq's audio wav2vec 2.0, whose input is one channel of sound"),
}


@pytest.fixture(params=REFUSED.items(), ids=REFUSED.keys())
def refused(request, golden_folder, tmp_path):
    """A file that cannot be used, and what is said of it."""
    _, (change, told) = request.param
    file = tmp_path / "bad.pt"
    if change is None:
        file.write_bytes((golden_folder / "tiny_pretrained.pt").read_bytes()[:200_000])
    else:
        state = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True)
        change(state)
        torch.save(state, file)
    return file, told


def one_line(done, told):
    assert told in error_line(done)
    assert "executed" not in done.stdout + done.stderr


def test_refused_by_fairseq_validate(data, refused):
    one_line(run(validate_command(data, refused[0], "valid", task="ecg_pretraining")), refused[1])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["finetune_from_model", "restore_file"])
def test_refused_by_pretraining(data, refused, tmp_path, option):
    options = [*GOLDEN, *STILL, f"++checkpoint.{option}={refused[0]}"]
    one_line(run(train_command(data, tmp_path / "run", *options)), refused[1])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["model.model_path", "++checkpoint.finetune_from_model"])
def test_refused_by_fine_tuning(data, refused, tmp_path, option):
    command = fine_tuning.finetune_command(data, tmp_path / "run", "null", f"{option}={refused[0]}")
    told = refused[1].replace("encoder.layers.0", "encoder.encoder.layers.0") if "finetune" in option else refused[1]
    one_line(run(command), told)
