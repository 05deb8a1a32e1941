"""Frozen parameters stay as they are, bit by bit, whatever the weight decay, precision, optimizer and kind of ranks."""

import copy

import made_up_checkpoints
import pytest
import torch
from fairseq import optim
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel
from fairseq_signals_ext.tasks._freezing import check_can_freeze, check_optimizer_state, leave_out_frozen
from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationTask

SMALL = {**made_up_checkpoints.SMALL, "num_labels": 3}
ADAM = {"_name": "adam", "lr": [0.1], "weight_decay": 0.1, "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8, "tpu": False}
OPTIMIZERS = {
    "adam": ADAM,
    "fused_adam": {**ADAM, "_name": "fused_adam"},
    "sgd": {"_name": "sgd", "lr": [0.1], "momentum": 0.9, "weight_decay": 0.1},
    "composite": {
        "_name": "composite",
        "dynamic_groups": True,
        "groups": {"default": {"optimizer": ADAM, "lr_scheduler": {"_name": "fixed"}}},
    },
}
WAYS = {
    "linear_probe": {"linear_probe": True},
    "freeze_finetune_updates": {"freeze_finetune_updates": 2, "feature_grad_mult": 1.0},
    "feature_grad_mult": {"feature_grad_mult": 0.0},
}


def classifier(**options):
    torch.manual_seed(0)
    return EcgTransformerClassifier(EcgTransformerClassifierConfig(**{**SMALL, **options}))


def build_optimizer(model, precision, name):
    common = {"tpu": False, "bf16": precision.startswith("bf16"), "fp16_no_flatten_grads": precision != "fp16 flat"}
    common.update(fp16_init_scale=4, fp16_scale_window=8, fp16_scale_tolerance=0.0)
    common.update(threshold_loss_scale=None, min_loss_scale=1e-4)
    cfg = OmegaConf.create(
        {
            "common": common,
            "optimizer": OPTIMIZERS[name],
            "optimization": {"update_freq": [1]},
            "distributed_training": {"distributed_world_size": 1},
        }
    )
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if precision == "fp32":
        return optim.build_optimizer(cfg.optimizer, params)
    model.to(torch.float16 if precision.startswith("fp16") else torch.bfloat16)
    kind = MemoryEfficientFP16Optimizer if precision.endswith("efficient") else FP16Optimizer
    return kind.build_optimizer(cfg, params)


def update(model, optimizer, number, zeros=False):
    """What fairseq's trainer does in one update.

    Args:
        zeros: as `legacy_ddp`, which gives zeros to parameters without gradient.
    """
    task = EcgClassificationTask.__new__(EcgClassificationTask)
    task._model = model
    torch.manual_seed(number)
    model.train()
    model.set_num_updates(number)
    optimizer.zero_grad()
    inputs = torch.randn(2, 12, 200, generator=torch.Generator().manual_seed(number))
    loss = model(inputs.type_as(model.proj.weight))["out"].float().square().sum()
    optimizer.backward(loss)
    for parameter in model.parameters() if zeros else ():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.multiply_grads(0.5)
    optimizer.clip_grad_norm(0.0)
    task.optimizer_step(optimizer, model=model, update_num=number)


def changed(model, before):
    """Names of the parameters that are not, bit by bit, what they were."""
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def frozen(model, way, name):
    return "feature_extractor" in name if way == "feature_grad_mult" else name.startswith("encoder.")


def cases():
    for precision in ("fp32", "legacy_ddp", "bf16", "bf16 efficient", "fp16 flat", "fp16"):
        for name in OPTIMIZERS:
            impossible = name == "fused_adam" and precision.endswith("efficient")
            impossible |= name in ("sgd", "composite") and "flat" in precision
            impossible |= name in ("sgd", "composite") and precision.endswith("efficient")
            if not impossible:
                yield pytest.param(precision, name, id=f"{precision}-{name}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("precision", "name"), cases())
def test_frozen_weights_stay_and_the_others_learn(monkeypatch, precision, name, way):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the place of flat parameters on a CPU
    model = classifier(**WAYS[way])
    optimizer = build_optimizer(model, "fp32" if precision == "legacy_ddp" else precision, name)
    before = copy.deepcopy(model.state_dict())
    for number in range(2):
        update(model, optimizer, number, zeros=precision == "legacy_ddp")
    found = changed(model, before)
    assert not [one for one in found if frozen(model, way, one)]
    assert {"proj.weight", "proj.bias"} <= found
    if way == "freeze_finetune_updates":
        for number in range(2, 4):
            update(model, optimizer, number, zeros=precision == "legacy_ddp")
        later = changed(model, before)
        assert any("feature_extractor" in one for one in later) and any("fc1.weight" in one for one in later)


def test_the_optimizer_continues_when_all_learns():
    """Saved while the encoder was frozen, and loaded, it goes on bit by bit."""
    model = classifier(**WAYS["freeze_finetune_updates"])
    optimizer = build_optimizer(model, "bf16", "adam")
    update(model, optimizer, 0)
    second = copy.deepcopy(model)
    other = build_optimizer(second, "bf16", "adam")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p32, saved in zip(other.fp32_params, optimizer.fp32_params):
        p32.data.copy_(saved.data)
    for number in range(1, 4):
        update(model, optimizer, number)
        update(second, other, number)
    assert not changed(second, dict(model.named_parameters()))


def test_a_pretraining_without_gradients_of_convolutions_does_not_give_them_to_the_optimizer():
    options = {**made_up_checkpoints.SMALL, "feature_grad_mult": 0.0}
    model = Wav2Vec2CmscModel(EcgWav2Vec2Config(**options))
    still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still and all(name.startswith("feature_extractor.") for name in still)


def old_checkpoint(tmp_path, precision="fp32", name="adam"):
    """A checkpoint of version 0.1.0, whose optimizer had all parameters."""
    model = classifier(feature_grad_mult=1.0)
    optimizer = build_optimizer(model, precision, name)
    update(model, optimizer, 0)
    cfg = {"model": {"_name": "ecg_transformer_classifier", "feature_grad_mult": 0}}
    state = {"model": model.state_dict(), "cfg": cfg, "last_optimizer_state": optimizer.state_dict()}
    return model, Checkpoint(tmp_path / "old.pt", state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_optimizer_of_an_older_checkpoint_is_taken_over(tmp_path, precision):
    older, checkpoint = old_checkpoint(tmp_path, precision)
    model = classifier(feature_grad_mult=0.0)
    check_optimizer_state(checkpoint, model, "")
    state = dict(checkpoint.state)
    leave_out_frozen(state)
    optimizer = build_optimizer(model, precision, "adam")
    optimizer.load_state_dict(state["last_optimizer_state"])
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    kept = dict(zip((name for name, _ in older.named_parameters()), range(999)))
    found, expected = optimizer.state_dict()["state"], checkpoint.state["last_optimizer_state"]["state"]
    for number, name in enumerate(names):
        assert torch.equal(found[number]["exp_avg"], expected[kept[name]]["exp_avg"])


@pytest.mark.parametrize("name", ["composite", "adam"])
def test_an_optimizer_that_does_not_fit_is_refused(tmp_path, name):
    _, checkpoint = old_checkpoint(tmp_path, name=name)
    model = classifier(feature_grad_mult=0.0) if name == "composite" else classifier(linear_probe=True)
    with pytest.raises(UserError, match=r"old.pt: its optimizer has \d+ parameters.*reset_optimizer"):
        check_optimizer_state(checkpoint, model, "checkpoint.reset_optimizer=true")


def test_pytorch_ddp_is_told_that_parameters_get_no_gradient(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        from fairseq.distributed import ModuleProxyWrapper
        from torch.nn.parallel import DistributedDataParallel

        model = classifier(**WAYS["freeze_finetune_updates"])
        for finds in (False, True):
            wrapped = ModuleProxyWrapper(DistributedDataParallel(model, find_unused_parameters=finds))
            if finds:
                check_can_freeze(wrapped, None)
                continue
            with pytest.raises(UserError, match="find_unused_parameters=true"):
                check_can_freeze(wrapped, None)
            model.set_num_updates(2)
            check_can_freeze(wrapped, None)
            model.set_num_updates(0)
        other = classifier(**WAYS["linear_probe"])
        check_can_freeze(ModuleProxyWrapper(DistributedDataParallel(other)), None)
    finally:
        torch.distributed.destroy_process_group()
