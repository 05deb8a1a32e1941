"""Made-up checkpoints that should run code, or take all memory or time; each is small and starts from a good one."""

import argparse
import contextlib
import copy
import io
import math
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from made_up_checkpoints import LABELS, made_up_checkpoint

from fairseq_signals_ext.checkpoints.architecture import to_ecg_fm_names

SECRET = "value-of-an-environment-variable"
# fairseq's models, tasks and criterions by the options that they evaluate as Python
EVALUATING = {
    "wav2vec2": ("conv_feature_layers",),
    "wav2vec": ("conv_feature_layers", "conv_aggregator_layers"),
    "wav2vec_ctc": ("conv_feature_layers",),
    "hubert": ("conv_feature_layers",),
    "multires_hubert": ("conv_feature_layers", "override_encoder_layers"),
    "data2vec_audio": ("conv_feature_layers",),
    "fconv": ("encoder_layers", "decoder_layers", "decoder_attention"),
    "fconv_lm": ("decoder_layers", "decoder_attention"),
    "fconv_self_att": ("pretrained", "encoder_layers", "encoder_attention", "self_attention", "downsample"),
    "transformer_lm": ("character_filters",),
    "lightconv_lm": ("character_filters",),
    "s2t_wav_transformer": ("conv_feature_layers",),
    "lstm": ("decoder_attention",),
}
_LARGE = (10**6, 10**9, 10**12, 10**400, -1, 1.5, math.nan, math.inf, "many", "1e6", [1], True)
# options of a model by values that it cannot have
SIZES = {
    "encoder_layers": _LARGE,
    "encoder_embed_dim": (*_LARGE, 0, 33),
    "encoder_ffn_embed_dim": (*_LARGE, 0, 2**18),
    "encoder_attention_heads": (*_LARGE, 0, 3),
    "conv_pos": (*_LARGE, 0, 2**16),
    "conv_pos_groups": (*_LARGE, 0, 5),
    "pos_conv_depth": (10**6, math.nan, 64),
    "in_d": (*_LARGE, 0, 13),
    "num_labels": (*_LARGE, 0, 4, 99_999),
    "latent_vars": (10**9, 2**20 + 1, math.nan, "many"),
    "latent_groups": (10**9, math.inf, 0),
    "latent_dim": (10**9,),
    "final_dim": (10**9, "many"),
    "quantizer_depth": (10**6,),
    "quantizer_factor": (10**6,),
    "required_seq_len_multiple": (10**9, 0),
    "crop_seq_to_multiple": (10**9, 0),
    "conv_feature_layers": (
        *("[(1000000000, 2, 2)] * 4", "[(16, 1000000000, 2)]", "[(16, 2, 2)] * 1000000", "[(16, 2, 2)] * 64", ""),
        *("[" * 5000, "-" * 100_000, "[(16, 2, 2)] * (10 ** 10 ** 10)", "[(65536, 65536, 2)] * 64", 7, None),
    ),
    "dropout": (math.nan, math.inf, -1, 2, "none"),
    "final_dropout": (math.nan, 7),
    "pooling": ("nothing", 3, None),
    "pooling_heads": (*_LARGE, 0),
    "layers": (10**6, 10**12, -1, 1.5, math.nan, "many", "9" * 5000, [1], True),
    "layer_type": ("conformer", "nothing", 3),
    "extractor_mode": ("nothing", 3),
    "activation_fn": ("nothing", "__import__('os')"),
    "_name": (None, 3, ["wav2vec2"], "nothing"),
}
TASK_SIZES = {
    "sample_rate": (math.nan, math.inf, 10**12, -1, "fast"),
    "segment_seconds": (math.nan, math.inf, 10**12, "long"),
    "max_sample_size": (10**12, -5, math.nan, "long"),
    "leads_to_load": ("I," * 10, "Z9", ["V1"] * 100, 10**30),
    "perturbation_mode": ("x", ["random_leads_masking"] * 100_001),
    "_name": (None, "audio_pretraining", 3, "ecg_pretraining "),
}
STATES = {
    "sample_rate": (math.nan, math.inf, 10**12, 1e-300, "fast", [500.0]),
    "segment_samples": (1, 10**12, 10**6 + 1, math.inf, "long", -500),
    "stride_samples": (10**12, math.nan, -1),
    "label_names": (
        [],
        "ABC",
        [1, 2, 3],
        ["A"] * 2,
        ["A\n", "B", "C"],
        ["\x1b[2J", "B", "C"],
        ["A" * 5000, "B", "C"],
        7,
    ),
    "thresholds": (["a", "b", "c"], "abc", [math.nan] * 3, [0.5] * 2, 7, [[0.5]] * 3),
    "aggregation": (["sum"] * 3, 7, [["mean"]] * 3),
    "leads": (["I"] * 12, ["X"], 7, [[]]),
    "loaded_leads": (["V9"], 7),
    "standardization": ("nothing", 3, ["lead"]),
}


def code(canary):
    """Python that makes a file, and is a list of layers otherwise."""
    return f"[__import__('pathlib').Path({str(canary)!r}).touch(), [(16, 2, 2)] * 4][1]"


def _base():
    """The state of a good checkpoint, its config and lists for each caller alone."""
    checkpoint = made_up_checkpoint()
    state = dict(checkpoint.state)
    state["cfg"]["task"]["data"] = "."
    history = [{"num_updates": 7, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}]
    state.update(args=None, optimizer_history=history, extra_state={"train_iterator": {"epoch": 2}})
    return state


_GOOD = None


def good():
    """The state of a good checkpoint; its tensors are shared by all that this gives."""
    global _GOOD
    _GOOD = _GOOD or _base()
    return {key: dict(value) if key == "model" else copy.deepcopy(value) for key, value in _GOOD.items()}


def set_at(state, place, value):
    """Set what is at a place such as "cfg.model.encoder_layers"."""
    *above, last = place.split(".")
    for key in above:
        state = state.setdefault(key, {})
    state[last] = value


def with_options(**places):
    """A function that sets options of a state; names have `__` for a dot."""

    def change(state, canary):
        for place, value in places.items():
            set_at(state, place.replace("__", "."), value(canary) if callable(value) else value)

    return change


def as_ecg_fm(change):
    """The same of a file with ECG-FM's names of parameters, in a config inside its model's."""

    def changed(state, canary):
        inner = good()
        change(inner, canary)
        state["model"] = to_ecg_fm_names(state["model"], "encoder.")
        state["task_state"] = {}
        state["cfg"]["model"]["args"] = inner["cfg"]

    return changed


def code_cases():
    """Changes of a good state that would run code, by names."""
    cases = {}
    for model, options in EVALUATING.items():
        for option in options:
            change = with_options(**{"cfg__model___name": model, f"cfg__model__{option}": code})
            cases[f"{model} {option}"] = change
            cases[f"{model} {option} in ECG-FM's args"] = as_ecg_fm(change)
    cases["our model"] = with_options(cfg__model__conv_feature_layers=code)
    cases["our model in ECG-FM's args"] = as_ecg_fm(cases["our model"])
    cases["criterion"] = with_options(cfg__criterion={"_name": "ctc"}, cfg__criterion__wer_args=code)
    cases["task"] = with_options(cfg__task___name="multilingual_translation", cfg__task__left_pad_source=code)
    cases["w2v_args"] = with_options(
        cfg__model__w2v_args=lambda canary: {"model": {"_name": "wav2vec2", "conv_feature_layers": code(canary)}}
    )
    cases["groups"] = with_options(
        cfg__optimizer=lambda canary: {
            "_name": "composite",
            "groups": {"a": {"optimizer": {"_name": "theirs", "adam_betas": code(canary)}}},
        }
    )
    cases["target"] = with_options(cfg__common={"x": {"_target_": "pathlib.Path.touch"}})
    cases["user_dir"] = _user_dir
    cases["options of an old fairseq"] = _old_options
    cases["old options beside a config"] = _old_options_beside
    cases["a task of fairseq"] = _of_fairseq
    cases.update(_links())
    return cases


def _links():
    """Texts that OmegaConf would compute."""
    layers = "cfg__model__conv_feature_layers"
    return {
        "env": with_options(cfg__model__encoder_layers="${oc.env:SECRET}"),
        "env as text": with_options(**{layers: "${oc.env:SECRET}"}),
        "env in a task": with_options(cfg__task__leads_to_load="${oc.env:SECRET}"),
        "env in a criterion": with_options(cfg__criterion__pos_weight="${oc.env:SECRET}"),
        "decode": with_options(
            **{layers: "${oc.decode:${common.wandb_project}}"},
            cfg__common__wandb_project=lambda canary: repr(code(canary)),
        ),
        "link to code": with_options(**{layers: "${common.wandb_project}"}, cfg__common__wandb_project=code),
        "link in pieces": with_options(
            **{layers: "${common.wandb_project}${common.log_file}"},
            cfg__common__wandb_project="$",
            cfg__common__log_file="{oc.env:SECRET}",
        ),
        "link to itself": with_options(cfg__model__encoder_layers="${model.encoder_layers}"),
        "create": with_options(cfg__model__encoder_layers="${oc.create:{a: 1}}"),
        "deprecated": with_options(cfg__model__encoder_layers="${oc.deprecated:model.in_d}"),
        "hydra": with_options(cfg__model__encoder_layers="${hydra:runtime.cwd}"),
        "model by a link": with_options(
            cfg__model__args="${common.x}",
            cfg__common__x=lambda canary: {"model": {"_name": "wav2vec2", "conv_feature_layers": code(canary)}},
        ),
        "many links": with_options(cfg__model__encoder_layers="${" * 3000),
    }


def _user_dir(state, canary):
    """A folder that a config names to be imported."""
    folder = Path(canary).with_name("theirs")
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(f"__import__('pathlib').Path({str(canary)!r}).touch()\n")
    state["cfg"]["common"] = {"user_dir": str(folder)}
    state["cfg"]["task"]["user_dir"] = state["cfg"]["model"]["user_dir"] = str(folder)


def _old_options(state, canary):
    state["args"] = argparse.Namespace(
        task="audio_pretraining", arch="wav2vec", data=".", conv_feature_layers=code(canary), criterion="wav2vec"
    )
    state["cfg"] = None


def _old_options_beside(state, canary):
    config = state["cfg"]
    _old_options(state, canary)
    state["cfg"] = config


def _of_fairseq(state, canary):
    state["cfg"]["task"] = {"_name": "audio_pretraining", "data": "."}
    state["cfg"]["model"].update(_name="wav2vec2", conv_feature_layers=code(canary))


def size_cases():
    """Changes of a good state to sizes and values that no model has, by names."""
    tables = {"cfg__model": SIZES, "cfg__task": TASK_SIZES, "task_state": STATES}
    cases = {
        f"{section.split('__')[-1]}.{option}={value!r:.40}": with_options(**{f"{section}__{option}": value})
        for section, options in tables.items()
        for option, values in options.items()
        for value in values
    }
    cases["updates"] = with_options(optimizer_history=[{"num_updates": 10**15}])
    cases["updates as text"] = with_options(optimizer_history=[{"num_updates": "many"}])
    for place in ("cfg", "cfg__model", "cfg__task", "task_state", "optimizer_history", "extra_state"):
        for value in (7, "text", [1]):
            cases[f"{place}={value!r}"] = with_options(**{place: value})
    cases.update({name: _with_value(value) for name, value in _shapes_of_data().items()})
    cases.update({f"tensor {name}": _with_tensor(value) for name, value in _tensors().items()})
    return cases


def _shapes_of_data():
    """Values that are deep, go in circles, or are few that stand for many."""
    deep, many = [], ["x"]
    for _ in range(100):  # more, and pickle cannot write it by itself; see `file_cases`
        deep = [deep]
    for _ in range(40):
        many = [many, many]
    circle = {}
    circle["again"] = circle
    return {"deep": deep, "many": many, "circle": circle, "long": "x" * 10**6, "whole": 10**5000, "bytes": b"x"}


def _with_value(value):
    def change(state, canary):
        state["cfg"]["common"] = {"value": value}
        state["cfg"]["model"]["value"] = value

    return change


def _tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = torch.zeros(len(LABELS), 32)
        return {
            "sparse": plain.to_sparse(),
            "csr": plain.to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
            "meta": torch.empty(10**6, 10**6, device="meta"),
            "expanded": torch.zeros(1).expand(10**9),
            "expanded to a matrix": torch.zeros(1, 1).expand(10**6, 10**6),
            "strided": torch.zeros(64).as_strided((10**4, 10**4), (0, 0)),
            "complex": plain.to(torch.complex64),
            "of another shape": torch.zeros(5, 32),
            "of no dimensions": torch.zeros(()),
        }


def _with_tensor(value):
    def change(state, canary):
        state["model"]["proj.weight"] = value

    return change


def write(path, change, canary):
    """Write a good checkpoint as it is changed."""
    state = good()
    change(state, canary)
    torch.save(state, path)
    return path


def file_cases():
    """Functions that write files of other makes, by names."""
    return {
        "compressed": lambda path, canary: _rezipped(path, zipfile.ZIP_DEFLATED),
        "tuples of tuples": lambda path, canary: _with_opcodes(path, b"}" + _tuples(60) + b"Ns"),
        "a deep key": lambda path, canary: _with_opcodes(path, b"}N" + b"\x85" * 200_000 + b"Ns"),
        "deep lists": lambda path, canary: _with_opcodes(path, _AT_A + b"]" * 20_000 + b"a" * 19_999 + b"s"),
        "many lists": lambda path, canary: _with_opcodes(path, b"](" + b"]" * 2_000_000 + b"e"),
        "a long number": lambda path, canary: _with_opcodes(path, b"\x8b\x80\x84\x1e\x00" + b"\x7f" * 2_000_000),
        "deep, of an old torch": lambda path, canary: path.write_bytes(_PLAIN + b"}N" + b"\x85" * 200_000 + b"Ns."),
        "a pickle": lambda path, canary: path.write_bytes(pickle.dumps(_Touch(canary))),
        "a pickle in a checkpoint": lambda path, canary: torch.save({**good(), "extra_state": _Touch(canary)}, path),
    }


_PLAIN = b"\x80\x02"
_AT_A = b"}X\x01\x00\x00\x00a"


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def _tuples(number):
    """Opcodes of a tuple of twice the same tuple of twice the same tuple ..."""
    return b"N\x85" + b"qdhd\x86" * number


def _with_opcodes(path, opcodes):
    """Write a good checkpoint whose pickle also makes `extra_state` by these opcodes."""
    state = good()
    state.pop("extra_state")
    torch.save(state, path)
    _rezipped(
        path, change=lambda content: content[:-2] + b"uX\x0b\x00\x00\x00extra_state" + opcodes + b"s.", write=False
    )


def _rezipped(path, method=zipfile.ZIP_STORED, change=lambda content: content, write=True):
    if write:
        torch.save(good(), path)
    content = io.BytesIO(path.read_bytes())
    with contextlib.closing(zipfile.ZipFile(content)) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, change(part) if name.endswith("data.pkl") else part)
