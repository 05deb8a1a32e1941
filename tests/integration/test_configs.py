"""Every config that we ship composes and starts."""

from pathlib import Path

import pytest
from made_up import write_shards
from running import BIN, CONFIGS, SMALL, logged, run, train

from fairseq_signals_ext import configs_dir

PAPER_RATES = {1: 1e-4, 5: 1e-4, 6: 8e-5, 200: 8e-5, 201: 5e-5, 240: 5e-5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_shards(folder, [5000] * 8, split=split)
    return folder


# others have options of their own that make them small: see test_ecg_jepa_training.py and test_ecg_cpc_commands.py
OF_ECG_FM = [
    # compiling takes a minute
    pytest.param(name, marks=pytest.mark.slow if name == "ecg_fm_fast" else ())
    for name in sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if not name.startswith(("ecg_jepa", "ecg_cpc"))
]


@pytest.mark.parametrize("config", OF_ECG_FM)
def test_config_trains_one_update(data, tmp_path, config):
    log = train(data, tmp_path, *SMALL, "++optimization.max_update=1", "++optimization.update_freq=[1]", config=config)
    assert logged(log, "train_num_updates") == [1.0]
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").is_file()
    assert ("'bf16': True" in log) == config.endswith("bf16")


def test_published_settings():
    """Sizes and rates of the full configs, as published."""
    from omegaconf import OmegaConf

    from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel

    code, paper = (OmegaConf.load(CONFIGS / name) for name in ("ecg_fm.yaml", "ecg_fm_paper.yaml"))
    assert (code.dataset.batch_size, code.distributed_training.distributed_world_size) == (64, 4)
    assert (code.optimization.update_freq, code.optimization.max_epoch, code.optimization.lr) == ([2], 200, [5e-5])
    assert (paper.dataset.batch_size, paper.distributed_training.distributed_world_size) == (171, 3)
    rates = [float(rate) for rate in paper.optimization.lr]
    # fairseq takes the value of the epoch, or the last one
    assert {epoch: rates[min(epoch - 1, len(rates) - 1)] for epoch in PAPER_RATES} == PAPER_RATES
    for config in (code, paper):
        options = {key: value for key, value in config.model.items() if key != "_name"}
        model = Wav2Vec2CmscModel(OmegaConf.merge(OmegaConf.structured(EcgWav2Vec2Config), options))
        assert sum(parameter.numel() for parameter in model.parameters()) == 90_883_072


VARIANTS = {
    "no CMSC": ["model._name=ecg_wav2vec2", "criterion._name=wav2vec"],
    "continuous targets": ["model.quantize_targets=false"],
    "reconstruction": ["++criterion.reconstruction_weight=0.5"],
    "gathering on one rank": ["++criterion.cmsc_gather=true"],
    "eight leads": ["task.leads_to_load='I,II,V1,V2,V3,V4,V5,V6'", "model.in_d=8"],
    "every augmentation": [
        "task.perturbation_mode=[random_leads_masking,powerline_noise,emg_noise,baseline_shift,baseline_wander]",
        "task.p=[1,0.5,0.5,0.5,0.5]",
        "task.mask_leads_selection=conditional",
        "task.mask_leads_condition=[2,3]",
    ],
    "random pairs": ["task.pairs=random"],
    "masks that stock fairseq cannot make": ["++model.no_mask_overlap=true", "++model.mask_selection=uniform"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_variant_trains_and_validates(data, tmp_path, overrides):
    log = train(data, tmp_path, *SMALL, "++optimization.max_update=2", "++common.log_interval=1", *overrides)
    assert len(logged(log, "loss")) >= 2 and len(logged(log, "valid_loss")) >= 1
    assert all(value == value for value in logged(log, "loss"))
    assert bool(logged(log, "valid_cmsc_accuracy")) == ("criterion._name=wav2vec" not in overrides)
    assert bool(logged(log, "valid_reconstruction_mse")) == any("reconstruction" in option for option in overrides)


@pytest.mark.parametrize(
    ("kind", "config"),
    [("pretraining", "ecg_fm_fast"), ("pretraining", "tiny"), ("fine_tuning", "age"), ("fine_tuning", "tiny")],
)
def test_every_option_of_the_task_needs_no_plus_signs(kind, config):
    """As the command composes it; what a config does not set is the default of the task."""
    import fairseq_signals_ext

    fairseq_signals_ext.register()
    from fairseq.tasks import TASK_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    configs = Path(configs_dir(kind))
    command = [BIN / "fairseq-hydra-train", "--config-dir", configs, "--config-name", config, "--cfg", "job"]
    done = run([*map(str, command), "task.data=x", "task.allow_mismatch=true"])
    composed = OmegaConf.create(done.stdout).task
    defaults = OmegaConf.structured(TASK_DATACLASS_REGISTRY[composed._name])
    own = {name for name in defaults if not OmegaConf.is_interpolation(defaults, name)} - {"_name", "data"}
    assert composed.allow_mismatch is True and own <= {*composed}
    shared = OmegaConf.load(configs / "options" / "task.yaml").task
    assert {*shared} == own and all(shared[name] == defaults[name] for name in own)


def test_options_of_the_head_need_no_plus_signs():
    """Their values in the configs are the defaults of the model."""
    import yaml
    from omegaconf import OmegaConf

    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifierConfig

    configs = Path(configs_dir("fine_tuning"))
    command = [BIN / "fairseq-hydra-train", "--config-dir", configs, "--config-name", "age", "--cfg", "job"]
    head = ["model.pooling=query", "model.pooling_heads=4", "model.layers=mix"]
    composed = OmegaConf.create(run([*map(str, command), "task.data=x", *head]).stdout).model
    assert (composed.pooling, composed.pooling_heads, composed.layers) == ("query", 4, "mix")
    defaults = EcgTransformerClassifierConfig()
    for config in ("finetune", "tiny"):
        model = yaml.safe_load((configs / f"{config}.yaml").read_text())["model"]
        assert all(model[name] == getattr(defaults, name) for name in ("pooling", "pooling_heads", "layers"))
