import copy
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.allowed import EVALUATED
from fairseq_signals_ext.checkpoints.config_conversion import (
    DROPPED,
    GROUPS,
    LOST,
    RENAMED,
    TO_GIVE,
    convert_config,
    list_changes,
    to_yaml,
)
from fairseq_signals_ext.checkpoints.config_differences import (
    LOST_REASONS,
    NEUTRAL,
    PATHS,
    RENAMED_KEYS,
    WITHOUT_EFFECT,
    WRITTEN,
)
from fairseq_signals_ext.checkpoints.config_files import read_config
from fairseq_signals_ext.common.errors import UserError

SMALL = {
    "task": {"_name": "ecg_pretraining", "data": "/theirs/manifests"},
    "model": {"_name": "wav2vec2_cmsc", "encoder_layers": 2},
    "criterion": {"_name": "wav2vec2_with_cmsc", "temp": 0.2},
    "dataset": {"batch_size": 8},
}


def with_option(key, value, config=SMALL):
    config = copy.deepcopy(config)
    section, option = key.split(".")
    config.setdefault(section, {})[option] = value
    return config


def changed(config):
    """Group of each changed key."""
    converted = convert_config(config)
    assert len({change.key for change in converted.changes}) == len(converted.changes), "listed once"
    return {change.key: change.group for change in converted.changes}, converted.sections


@pytest.fixture(scope="module")
def golden(golden_folder):
    """Full configs of ECG-FM's framework."""
    return {name: read_config(golden_folder / name) for name in ("tiny_pretrained.pt", "tiny_finetuned.pt")}


def test_each_key_is_kept_or_listed(golden):
    for config in golden.values():
        groups, sections = changed(config)
        for section, values in config.items():
            for option, value in values.items():
                key = f"{section}.{option}"
                if option == "_name" and value is None:
                    continue
                if key in groups:
                    given = sections.get(section, {}).get(option)
                    assert given == ("???" if groups[key] == TO_GIVE else None), key
                else:
                    assert sections[section][option] == value, key
        assert LOST not in groups.values()


def test_fairseq_knows_each_key_that_is_kept(golden, registered):
    """Merged as `fairseq-hydra-train` does it, with nothing unknown and no value of a wrong type."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.dataclass.initialize import add_defaults

    for config in golden.values():
        _, sections = changed(config)
        whole = OmegaConf.merge(OmegaConf.structured(FairseqConfig), OmegaConf.create(sections))
        add_defaults(whole)
        # each is a structured config now, which has refused what it does not know
        for section in ("task", "model", "criterion", "optimizer", "lr_scheduler"):
            assert OmegaConf.get_type(whole[section]) is not dict, section
        assert whole.lr_scheduler.lr == whole.optimizer.lr == [5e-5]
        assert whole.task.criterion_name == config["criterion"]["_name"]


def test_file_of_five_sections(golden_folder):
    """As published beside the checkpoint: the learning rate goes where fairseq has it."""
    groups, sections = changed(read_config(golden_folder / "tiny_pretrained.yaml"))
    order = ["task", "dataset", "criterion", "optimization", "optimizer", "lr_scheduler", "model"]
    assert list(sections) == order
    assert sections["optimization"] == {"lr": [5e-5]}
    assert {key for key, group in groups.items() if group == RENAMED} == {"criterion.all_gather", "optimizer.lr"}
    assert {key for key, group in groups.items() if group == TO_GIVE} == {"task.data", "dataset.batch_size"}
    assert sections["criterion"]["cmsc_gather"] is False and "all_gather" not in sections["criterion"]
    assert sections["optimizer"]["adam_betas"] == "(0.9, 0.98)"


@pytest.mark.parametrize(
    ("dataset", "asked"),
    [
        (None, True),
        ({}, True),
        ({"num_workers": 2}, True),
        ({"batch_size": None, "max_tokens": None}, True),
        ({"batch_size": 4}, False),
        ({"max_tokens": 9000}, False),
        ({"max_tokens": 9000, "batch_size": None}, False),
    ],
)
def test_a_batch_size_is_asked_for(dataset, asked):
    rest = {name: values for name, values in SMALL.items() if name != "dataset"}
    groups, sections = changed(rest if dataset is None else {**rest, "dataset": dataset})
    assert (groups.get("dataset.batch_size") == TO_GIVE) is asked
    assert (sections.get("dataset", {}).get("batch_size") == "???") is asked


def test_labels_are_asked_for():
    rest = {"model": {"_name": "ecg_transformer_classifier"}, "dataset": SMALL["dataset"]}
    for task, criterion in (
        ("ecg_classification", "binary_cross_entropy_with_logits"),
        ("ecg_regression", "regression"),
    ):
        for label_file in ({}, {"label_file": None}, {"label_file": "/theirs/y.npy"}):
            of_task = {"_name": task, **label_file}
            groups, sections = changed({**rest, "task": of_task, "criterion": {"_name": criterion}})
            assert groups["task.label_file"] == TO_GIVE and sections["task"]["label_file"] == "???"
    assert "task.label_file" not in changed(SMALL)[0]


def test_text_reads_back_and_is_the_same_each_time(golden, tmp_path):
    for name, config in golden.items():
        _, sections = changed(config)
        text = to_yaml(sections, name)
        (tmp_path / "ours.yaml").write_text(text)
        assert OmegaConf.to_container(OmegaConf.load(tmp_path / "ours.yaml")) == sections
        shuffled = {section: dict(reversed(list(config[section].items()))) for section in reversed(list(config))}
        assert to_yaml(convert_config(shuffled).sections, name) == text
        assert text.startswith("# @package _global_\n") and name in text.splitlines()[1]


def test_converting_again_changes_nothing(golden):
    for config in golden.values():
        _, sections = changed(config)
        again = convert_config(sections)
        assert again.sections == sections
        assert {change.group for change in again.changes} == {TO_GIVE}


@pytest.mark.parametrize(
    ("key", "value", "group"),
    [
        ("task.filter", True, LOST),
        ("task.filter", False, DROPPED),
        ("task.mean_path", "mean.txt", LOST),
        ("task.leads_bucket", "['V2', 'V5']", LOST),
        ("task.inferred_w2v_config", {"mask_prob": 0.65}, LOST),
        ("task.precompute_mask_indices", True, DROPPED),
        ("task.something_new", 3, LOST),
        ("task.something_new", None, DROPPED),
        ("task.label_file", "/theirs/y.npy", LOST),  # not an option of pretraining
        ("model.apply_mask", True, DROPPED),
        ("model.apply_mask", False, LOST),
        ("model.saliency", True, DROPPED),
        ("model.encoder_layers", "many", LOST),
        ("model.encoder_layers", None, DROPPED),
        ("common.user_dir", "/theirs", TO_GIVE),
        ("common.user_dir", None, None),
        ("common.fp16", True, None),
        ("common.all_gather_list_size", 2048000, None),
        ("checkpoint.save_dir", "checkpoints", None),
        ("checkpoint.restore_file", "checkpoint_last.pt", None),
        ("checkpoint.restore_file", "/theirs/checkpoint.pt", TO_GIVE),
        ("checkpoint.finetune_from_model", "/theirs/checkpoint.pt", TO_GIVE),
        ("distributed_training.distributed_world_size", 4, None),
        ("distributed_training.distributed_port", 12355, DROPPED),
        ("common_eval.extract", "output", DROPPED),
    ],
)
def test_what_becomes_of_an_option(key, value, group):
    groups, sections = changed(with_option(key, value))
    assert groups.get(key) == group
    section, option = key.split(".")
    kept = sections.get(section, {}).get(option)
    assert kept == {None: value, TO_GIVE: "???"}.get(group)
    # nothing else is touched
    assert groups.pop(key, None) == group and groups == {"task.data": TO_GIVE}


def test_normalising_by_files_is_another_thing_than_here():
    assert changed(with_option("task.normalize", True))[1]["task"]["normalize"] is True
    groups, sections = changed(with_option("task.mean_path", "mean.txt", with_option("task.normalize", True)))
    assert groups["task.normalize"] == groups["task.mean_path"] == LOST and "normalize" not in sections["task"]


CODE = "[__import__('os').system('touch ran'), (0.9, 0.98)][1]"


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ({"_name": "adam", "adam_betas": CODE}, "adam_betas"),
        ({"_name": "cpu_adam", "adam_betas": "${checkpoint.save_dir}"}, "adam_betas"),
        ({"_name": "adam", "adam_betas": "betas"}, "adam_betas"),
        ({"_name": "adam", "adam_betas": "(0.9, '0.98')"}, "adam_betas"),
        ({"_name": "adam", "adam_betas": "(" * 9999}, "adam_betas"),
        ({"_name": "adam", "adam_betas": "{[]: 1}"}, "adam_betas"),
        (
            {"_name": "composite", "groups": {"a": {"optimizer": {"_name": "adafactor", "adafactor_eps": CODE}}}},
            "groups.a.optimizer.adafactor_eps",
        ),
        (
            {"_name": "composite", "groups": {"a": [{"_name": "adam", "adam_betas": CODE}]}},
            "groups.a.0.adam_betas",
        ),
    ],
)
def test_code_that_training_would_run_is_refused(optimizer, key):
    with pytest.raises(UserError, match=rf"c.yaml: optimizer.{key} .*: is more than plain numbers") as error:
        convert_config({**SMALL, "optimizer": optimizer}, "c.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.conv_feature_layers", CODE),
        ("model.conv_feature_layers", "[(256, 2, 2)] * 10 ** 9"),
        ("distributed_training.pipeline_balance", CODE),
    ],
)
def test_code_in_other_options(key, value):
    with pytest.raises(UserError, match=f"c.yaml: {key} .*: is more than plain numbers; write it like '"):
        convert_config(with_option(key, value), "c.yaml")


def test_code_of_a_pretrained_architecture():
    pretrained = {"model": {"_name": "wav2vec2_cmsc", "conv_feature_layers": CODE}}
    with pytest.raises(UserError, match="config: model.conv_feature_layers "):
        convert_config({**SMALL, "model": {"_name": "ecg_transformer_classifier", "args": pretrained}})


@pytest.mark.parametrize("value", ["(0.9, 0.98)", "[0.9, 1e-3]", " (-1, (2, 3))  # as published", "0.9", "???"])
def test_numbers_as_text_stay(value):
    config = with_option("optimizer.adam_betas", value, with_option("optimizer._name", "adam"))
    assert convert_config(config).sections["optimizer"]["adam_betas"] == value


def evaluated(folder):
    """Options that code gives to Python's eval, or to those functions of fairseq that end in it."""
    code = "".join(path.read_text() for path in sorted(folder.rglob("*.py")) if "examples" not in path.parts)
    return set(re.findall(r"(?<!literal_)eval\w*\(\s*(?:self\.)?(?:cfg|args)\.(\w+)", code))


def test_what_fairseq_evaluates_is_known(registered):
    import fairseq
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES

    top = Path(inspect.getfile(fairseq)).parent
    # any of these in the groups of a composite one
    assert {"adam_betas", "adafactor_eps"} <= evaluated(top / "optim") <= set(EVALUATED)
    kinds = [field.type for field in dataclasses.fields(FairseqConfig) if dataclasses.is_dataclass(field.type)]
    kinds += [*REGISTRIES["optimizer"]["dataclass_registry"].values()]
    kinds += [MODEL_DATACLASS_REGISTRY["ecg_transformer_classifier"], MODEL_DATACLASS_REGISTRY["wav2vec2_cmsc"]]
    texts = {field.name for kind in kinds for field in dataclasses.fields(kind) if field.type not in (int, float, bool)}
    found = evaluated(top) & texts
    assert {"conv_feature_layers", "pipeline_devices"} <= found <= {*EVALUATED, "conv_feature_layers"}


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "${oc.decode:${common.wandb_project}}",
        "${oc.create:{a: 1}}",
        "${oc.deprecated:common.seed}",
        "${now:%Y}",
        "${hydra:runtime.cwd}",
        "${nowhere.lr}",
        "${common.circle}",
        "a${common.seed}",
        "${common.first}${common.second}",
        "${" * 3000,
        "${common}",
    ],
)
@pytest.mark.parametrize("place", ["common.wandb_project", "optimizer.groups"])
def test_what_would_be_computed_is_dropped_with_a_warning(text, place, monkeypatch):
    monkeypatch.setenv("SECRET", "never-shown")
    config = with_option("optimizer._name", "composite", with_option("common.circle", "${common.circle}"))
    config = with_option("common.first", "$", with_option("common.second", "{oc.env:SECRET}", config))
    converted = convert_config(with_option(place, text if "w" in place else {"a": {"lr": [text]}}, config), "c.yaml")
    groups = {change.key: change.group for change in converted.changes}
    assert groups[place] == LOST
    written = to_yaml(converted.sections, "c") + list_changes(converted.changes)
    assert "never-shown" not in written and "${" not in to_yaml(converted.sections, "c")


def test_plain_links_are_resolved_by_us():
    config = with_option("optimizer.weight_decay", "${common.seed}", with_option("optimizer._name", "adam"))
    config = with_option("common.seed", "${dataset.batch_size}", config)
    sections = convert_config(config).sections
    assert sections["common"]["seed"] == sections["optimizer"]["weight_decay"] == 8


@pytest.mark.parametrize("key", sorted({*WRITTEN, *PATHS} - {"task.data"}))
def test_no_path_is_kept_silently(key):
    section = key.split(".")[0]
    names = {"model": "ecg_transformer_classifier", "task": "ecg_classification"}
    config = with_option("criterion._name", "binary_cross_entropy_with_logits")
    for part, name in names.items():
        config = with_option(f"{part}._name", name, config)
    groups, sections = changed(with_option(key, "/home/them/file", config))
    assert groups[key] in (TO_GIVE, LOST), key
    assert sections.get(section, {}).get(key.split(".")[1]) in (None, "???")


def test_all_texts_that_may_be_paths_are_known(registered):
    """Options that are called like files or folders are in one of the tables."""
    from fairseq.dataclass.configs import FairseqConfig

    names = {
        f"{section.name}.{option.name}"
        for section in dataclasses.fields(FairseqConfig)
        if dataclasses.is_dataclass(section.type)
        for option in dataclasses.fields(section.type)
        if "str" in str(option.type) and re.search(r"dir|file|path|log_|repo|suffix|input|once|model$", option.name)
    }
    known = {*PATHS, *WRITTEN, *WITHOUT_EFFECT}
    harmless = {"common.log_format"}
    assert names - known - harmless == set()


@pytest.mark.parametrize("nested", [False, True])
def test_names_that_fairseq_evaluates_options_of(nested):
    inner = {"_name": "nag", "x": {"optimizer": {"_name": "theirs", "code": CODE}}} if nested else {"_name": "theirs"}
    with pytest.raises(UserError, match="c.yaml: its optimizer is 'theirs'"):
        convert_config({**SMALL, "optimizer": {"_name": "composite", "groups": {"a": {"optimizer": inner}}}}, "c.yaml")


def test_a_target_is_refused():
    groups = {"a": {"_target_": "os.system", "command": "touch ran"}}
    with pytest.raises(UserError, match="c.yaml: its config has optimizer.groups.a._target_"):
        convert_config({**SMALL, "optimizer": {"_name": "composite", "groups": groups}}, "c.yaml")


def test_a_file_name_cannot_add_lines():
    assert "\nhydra:" not in to_yaml(convert_config(SMALL).sections, "a\nhydra: {}\u2028.yaml")


@pytest.mark.parametrize("owner", ["criterion", "model"])
def test_gathering(owner):
    groups, sections = changed(with_option(f"{owner}.all_gather", True))
    assert groups[f"{owner}.all_gather"] == RENAMED and sections["criterion"]["cmsc_gather"] is True


def test_links():
    """A value that fairseq links follows its target again; one that differs from it stays."""
    config = with_option("dataset.batch_size", 64, with_option("dataset.batch_size_valid", 64))
    groups, sections = changed(config)
    assert groups["dataset.batch_size_valid"] == DROPPED and sections["dataset"] == {"batch_size": 64}
    groups, sections = changed(with_option("dataset.batch_size_valid", 32, config))
    assert "dataset.batch_size_valid" not in groups and sections["dataset"]["batch_size_valid"] == 32


def test_sample_sizes_of_old_configs():
    groups, sections = changed(with_option("task.max_segment_size", 2500))
    assert groups["task.max_segment_size"] == RENAMED and sections["task"]["max_sample_size"] == 2500


def test_a_misspelt_option_of_theirs():
    groups, sections = changed(with_option("distributed_training.disributed_backend", "nccl"))
    assert groups["distributed_training.disributed_backend"] == RENAMED
    assert sections["distributed_training"] == {"distributed_backend": "nccl"}


def test_architecture_of_the_pretrained_model_counts():
    """ECG-FM's framework builds a classifier from the pretrained file, whatever the classifier's own options say."""
    pretrained = {"model": {"_name": "wav2vec2_cmsc", "encoder_layers": 3, "conv_pos": 64, "dropout": 0.7}}
    model = {"_name": "ecg_transformer_classifier", "encoder_layers": 12, "dropout": 0.0, "args": pretrained}
    groups, sections = changed({**SMALL, "model": model})
    assert sections["model"] == {"_name": model["_name"], "encoder_layers": 3, "conv_pos": 64, "dropout": 0.0}
    assert groups["model.encoder_layers"] == groups["model.conv_pos"] == RENAMED and groups["model.args"] == DROPPED


def test_names_that_are_others_here(registered):
    """Plain wav2vec 2.0: fairseq's own of that name is for sound."""
    config = {**SMALL, "model": {"_name": "wav2vec2"}, "criterion": {"_name": "wav2vec2", "infonce": True}}
    config["checkpoint"] = {"best_checkpoint_metric": "em_accuracy"}
    groups, sections = changed(config)
    assert (sections["model"]["_name"], sections["criterion"]["_name"]) == ("ecg_wav2vec2", "wav2vec")
    assert sections["checkpoint"]["best_checkpoint_metric"] == "exact_match"
    names = {"model._name", "criterion._name", "checkpoint.best_checkpoint_metric"}
    assert {key for key, group in groups.items() if group == RENAMED} == names


@pytest.mark.parametrize(
    ("section", "value", "group"),
    [
        ("hydra", {"run": {"dir": "out"}}, DROPPED),
        ("job_logging_cfg", {"version": 1}, DROPPED),
        ("tokenizer", None, DROPPED),
        ("scoring", {"_name": "bleu"}, DROPPED),
        ("simul_type", None, DROPPED),
        ("theirs", {"x": 1}, LOST),
        ("theirs", {"x": None}, DROPPED),
    ],
)
def test_sections_that_a_training_does_not_have(section, value, group):
    groups, sections = changed({**SMALL, section: value})
    assert groups[section] == group and section not in sections


@pytest.mark.parametrize(
    ("section", "name", "known"),
    [
        ("model", "clocs", "ecg_transformer_classifier, ecg_wav2vec2, wav2vec2_cmsc"),
        ("model", "3kg", "wav2vec2_cmsc"),
        ("model", "hubert", "wav2vec2_cmsc"),  # fairseq has it, but not for ECGs
        ("task", "ecg_question_answering", "ecg_classification, ecg_pretraining, ecg_regression"),
        ("criterion", "clocs", "latent_prediction, regression, softmax, wav2vec, wav2vec2_with_cmsc"),
        ("optimizer", "sophia", "adam, composite"),
        ("lr_scheduler", "cyclic", "cosine, fixed"),
    ],
)
def test_unknown_names(section, name, known):
    with pytest.raises(UserError, match=f"theirs.yaml: {section} '{name}' is not here; there are .*{known}") as error:
        convert_config({**SMALL, section: {"_name": name}}, "theirs.yaml")
    assert "\n" not in str(error.value)


def test_sections_without_a_name_or_missing():
    with pytest.raises(UserError, match="c.yaml: model has no _name; there are .*ecg_transformer_classifier"):
        convert_config({**SMALL, "model": {}}, "c.yaml")
    for section in ("task", "model", "criterion"):
        rest = {name: values for name, values in SMALL.items() if name != section}
        with pytest.raises(UserError, match=f"c.yaml: has no section '{section}'"):
            convert_config(rest, "c.yaml")


def test_tables_name_options_that_are_not_here(registered):
    """A key that the tables say is not here, but that is, would be dropped by mistake."""
    from fairseq.dataclass.configs import CommonConfig

    from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogitsConfig
    from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscConfig
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifierConfig
    from fairseq_signals_ext.models.ecg_wav2vec2 import Wav2Vec2CmscConfig
    from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig

    kinds = {
        "task": [EcgClassificationConfig],
        "model": [EcgTransformerClassifierConfig, Wav2Vec2CmscConfig],
        "criterion": [BinaryCrossEntropyWithLogitsConfig, Wav2Vec2WithCmscConfig],
        "common": [CommonConfig],
    }
    here = {f"{section}.{option}" for section in kinds for kind in kinds[section] for option in kind.__annotations__}
    for kind in kinds["task"][0].__mro__[:-1]:
        here |= {f"task.{option}" for option in getattr(kind, "__annotations__", {})}
    assert here & {*LOST_REASONS, *WITHOUT_EFFECT} == {"model.apply_mask", "task.criterion_name"}
    assert not here & set(RENAMED_KEYS) and set(NEUTRAL) <= set(LOST_REASONS)
    assert {"task.data", "task.label_file", "model.model_path", "criterion.pos_weight"} <= here & set(PATHS)


def test_list_is_aligned_and_grouped(golden):
    config = with_option("task.filter", True, golden["tiny_pretrained.pt"])
    converted = convert_config(config)
    lines = list_changes(converted.changes).splitlines()
    headings = [line for line in lines if not line.startswith("  ")]
    assert [heading.rsplit(":", 1)[0] for heading in headings] == list(GROUPS)
    assert sum(int(heading.rsplit(":", 1)[1]) for heading in headings) == len(converted.changes)
    assert len(lines) == len(headings) + len(converted.changes)
    rows = [line for line in lines if line.startswith("  ")]
    ordered = [change for group in GROUPS for change in converted.changes if change.group == group]
    assert [row.split()[0] for row in rows] == [change.key for change in ordered]
    assert len({row.rindex(change.reason) for row, change in zip(rows, ordered)}) == 1, "one column"
    assert rows[-1].split()[:2] == ["task.filter", "true"] and "clean them before prepare" in rows[-1]


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(0, 1), st.text("ab/?$ ", max_size=5))


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["temp", "loss_weights", "all_gather", "x"]), SCALARS),
    st.dictionaries(st.sampled_from(["sample_rate", "normalize", "mean_path", "data", "y"]), SCALARS),
    st.dictionaries(st.sampled_from(["seed", "fp16", "user_dir", "z"]), SCALARS),
)
def test_any_values_give_a_config_that_fairseq_takes(criterion, task, common):
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.dataclass.initialize import add_defaults

    config = {**SMALL, "criterion": {**SMALL["criterion"], **criterion}, "task": {**SMALL["task"], **task}}
    groups, sections = changed({**config, "common": common})
    add_defaults(OmegaConf.merge(OmegaConf.structured(FairseqConfig), OmegaConf.create(sections)))
    for section, values in (("criterion", criterion), ("task", task), ("common", common)):
        for option, value in values.items():
            kept = option in sections.get(section, {})
            assert kept or f"{section}.{option}" in groups
            assert not kept or sections[section][option] in (value, "???")


class TestReading:
    def test_links_are_followed(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("optimization: {lr: [5e-5]}\noptimizer: {lr: '${optimization.lr}'}\n")
        assert read_config(path)["optimizer"]["lr"] == [5e-5]

    @pytest.mark.parametrize("text", ["- a list\n", "task: [\n", "{}: x", "1: {a: 2}", "\x00"])
    def test_not_a_config(self, tmp_path, text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=r"c\.yaml: not a config") as error:
            read_config(path)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25)), "(values|deep)"),
            (
                "a0: &a0 {}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 25)),
                "(values|deep)",
            ),
            ("a: &a [*a]\n", "circle"),
            ("a: " + "[" * 100 + "]" * 100 + "\n", "deep"),
            ("a: " + "[" * 20_000 + "\n", "recursion"),
            ("a: " + "9" * 50_000 + "\n", "digits"),
            ("a: [" + "x," * 60_000 + "]\n", "bytes"),
        ],
    )
    def test_few_bytes_that_stand_for_much(self, tmp_path, text, told):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=rf"c\.yaml: not a config in YAML \(.*{told}"):
            read_config(path)

    def test_no_file(self, tmp_path):
        for name in ("no.yaml", "no.pt"):
            with pytest.raises(UserError, match=f"{name}: no such .*give a config"):
                read_config(tmp_path / name)

    def test_code_in_yaml_is_not_run(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text(f"task: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
        with pytest.raises(UserError, match="not a config in YAML"):
            read_config(path)
        assert not (tmp_path / "made").exists()

    def test_config_of_a_checkpoint(self, golden_folder, golden):
        state = torch.load(golden_folder / "tiny_finetuned.pt", weights_only=True)
        assert golden["tiny_finetuned.pt"] == state["cfg"]
