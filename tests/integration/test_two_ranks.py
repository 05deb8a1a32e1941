"""Data-parallel training gives the gradients of one process."""

import pytest
import torch
from fine_tuning import finetune_command, write_labelled, write_pretrained
from made_up import write_shards
from running import FAST, SMALL, one_of_two, start_rank, train_command, wait_for, weights

NO_DROPOUT = [
    *SMALL,
    "++dataset.disable_validation=true",
    "++optimization.max_update=1",
    "++optimization.clip_norm=0",
    "++model.dropout=0",
    "++model.attention_dropout=0",
    "++model.dropout_input=0",
    "++model.dropout_features=0",
]
PYTORCH_DDP = "++distributed_training.ddp_backend=pytorch_ddp"
# without what depends on how segments are put into batches: the diversity of codewords, and masks that are cut to
# those of the segment with the fewest masked frames (so all segments get 78 of 156)
GATHER = [
    "++criterion.cmsc_gather=true",
    "++criterion.loss_weights=[0,10]",
    "++model.mask_prob=0.5",
    "++model.mask_length=1",
]


def start(data, out, target, *overrides):
    return start_rank(train_command(data, out, *NO_DROPOUT, *overrides)[1:], target)


def of_one(data, folder, *overrides):
    """Gradients that one process takes a step with."""
    target = folder / "one.pt"
    wait_for(start(data, folder / "one", target, *overrides))
    gradients = torch.load(target, weights_only=True)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-3
    return gradients


def of_two(data, folder, *overrides):
    """Gradients that two processes take a step with, which must be the same."""
    folder.mkdir(exist_ok=True)
    ranks = [
        start(data, folder / f"{rank}", folder / f"{rank}.pt", *one_of_two(rank, folder / "meeting"), *overrides)
        for rank in (0, 1)
    ]
    for process in ranks:
        wait_for(process)
    gradients, others = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    return gradients


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four batches."""
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, [5000] * 16)
    return folder


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """Gradients of one process with two accumulated batches."""
    return of_one(data, tmp_path_factory.mktemp("one"), "++optimization.update_freq=[2]")


@pytest.mark.slow
def test_a_teacher_on_two_ranks_gives_the_gradients_of_one(data, tmp_path):
    teacher = [*GATHER, "model._name=ecg_data2vec", "criterion._name=data2vec_with_cmsc", "++criterion.cmsc_weights=0"]
    single = [*teacher, "task.pairs=none"]
    expected = of_one(data, tmp_path, "++optimization.update_freq=[2]", *single)
    assert "regression_head.weight" in expected and not any("teacher" in name for name in expected)
    assert_close(of_two(data, tmp_path / "two", *single), expected)


@pytest.mark.parametrize(
    "overrides",
    [pytest.param([], id="legacy_ddp"), pytest.param([PYTORCH_DDP], marks=pytest.mark.slow, id="pytorch_ddp")],
)
def test_two_ranks_equal_one_with_two_accumulated_batches(data, expected, tmp_path, overrides):
    assert_close(of_two(data, tmp_path, *overrides), expected)


@pytest.mark.slow
def test_two_ranks_equal_one_with_the_fast_options(data, tmp_path):
    expected = of_one(data, tmp_path, *FAST, "++optimization.update_freq=[2]")
    assert_close(of_two(data, tmp_path, *FAST, PYTORCH_DDP), expected)


def test_gradients_sent_in_bf16_are_rounded_and_no_more(data, expected, tmp_path):
    found = of_two(data, tmp_path, PYTORCH_DDP, "++task.bf16_gradients=true")
    assert found.keys() == expected.keys()
    difference, length = (
        torch.cat([value.flatten() for value in values]).norm()
        for values in ([found[name] - expected[name] for name in expected], expected.values())
    )
    # bf16 has 8 binary digits: rounded to 2**-9 of a value, before and after the sum
    assert 2**-12 < float(difference / length) < 2**-8


@pytest.mark.parametrize("backend", ["legacy_ddp", pytest.param("pytorch_ddp", marks=pytest.mark.slow)])
def test_two_ranks_go_on_where_they_were_stopped(data, tmp_path, backend):
    """The second of two updates, bit for bit; fairseq alone cannot send a checkpoint to ranks since torch 2.6."""
    options = [f"++distributed_training.ddp_backend={backend}", "++optimization.max_update=2"]
    at_once = of_two(data, tmp_path / "at_once", *options, "++checkpoint.save_interval_updates=1")
    first = tmp_path / "at_once" / "0" / "checkpoints" / "checkpoint_1_1.pt"
    gone_on = of_two(data, tmp_path / "gone_on", *options, f"++checkpoint.restore_file={first}")
    assert gone_on.keys() == at_once.keys()
    assert all(torch.equal(gradient, at_once[name]) for name, gradient in gone_on.items())


@pytest.mark.slow
def test_gathering_for_cmsc_over_two_ranks_equals_one_larger_batch(tmp_path):
    write_shards(tmp_path, [5000] * 8)
    expected = of_one(tmp_path, tmp_path, *GATHER, "++dataset.batch_size=8")
    assert_close(of_two(tmp_path, tmp_path, *GATHER, PYTORCH_DDP), expected)


@pytest.mark.slow
def test_gathering_with_a_rank_that_has_no_batch_left(tmp_path):
    """Five batches for two ranks: the sixth is one for validation, of another size, that counts for nothing.

    Weights stay as they are, so that the last update is that of the fifth batch alone.
    """
    write_shards(tmp_path, [5000] * 20)
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    (tmp_path / "valid.tsv").write_text("\n".join([*lines[:7], ""]))
    same_weights = ["++optimization.lr=[0]", "++model.latent_temp=[2,2,1]", *GATHER]
    expected = of_one(tmp_path, tmp_path, *same_weights, "++optimization.max_update=5")
    validation = ["++dataset.disable_validation=false", "++dataset.batch_size_valid=6", "++dataset.validate_interval=9"]
    found = of_two(tmp_path, tmp_path, *same_weights, *validation, PYTORCH_DDP, "++optimization.max_update=3")
    assert_close(found, expected)


FREEZING = {
    "linear_probe": ["++model.linear_probe=true"],
    "freeze_finetune_updates": ["++model.freeze_finetune_updates=1", "++model.feature_grad_mult=0"],
    "bf16": ["++model.freeze_finetune_updates=1", "++model.feature_grad_mult=0", "++common.bf16=true"],
    "pytorch_ddp": ["++model.freeze_finetune_updates=1", "++model.feature_grad_mult=0", PYTORCH_DDP],
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Data to fine-tune on, and a pretrained file."""
    folder = tmp_path_factory.mktemp("labelled")
    data = write_labelled(folder / "data")
    return data, write_pretrained(data, folder / "pretraining")


@pytest.mark.slow
@pytest.mark.parametrize("options", FREEZING.values(), ids=FREEZING.keys())
def test_weight_decay_lets_frozen_weights_be(labelled, tmp_path, options):
    """An update with the encoder frozen, and then, unless it is a linear probe, some with only its convolutions."""
    data, pretrained = labelled
    common = ["++optimizer.weight_decay=0.1", "++optimization.lr=[0.1]", "++dataset.disable_validation=true"]
    common += ["++checkpoint.save_interval_updates=1", "++optimization.max_update=3"]
    ranks = [
        start_rank(
            finetune_command(
                *(data, tmp_path / str(rank), pretrained, *one_of_two(rank, tmp_path / "meeting"), *common, *options)
            )[1:],
            tmp_path / f"{rank}.pt",
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        wait_for(process)
    folder = tmp_path / "0" / "checkpoints"
    before = {f"encoder.{name}": value for name, value in weights(pretrained).items()}
    if "++common.bf16=true" in options:  # fairseq writes what is in bf16 as float32
        before = {name: value.bfloat16().float() for name, value in before.items()}
    early, late = (weights(folder / f"checkpoint_{which}.pt") for which in ("1_1", "last"))
    probe = "++model.linear_probe=true" in options
    for found, names in ((early, "encoder."), (late, "encoder." if probe else "encoder.feature_extractor.")):
        frozen = [name for name in found if name.startswith(names)]
        assert frozen and all(torch.equal(found[name], before[name]) for name in frozen)
        assert found["proj.bias"].abs().max() > 0
    name = "encoder.encoder.layers.0.fc1.weight"
    assert probe == torch.equal(late[name], early[name])
