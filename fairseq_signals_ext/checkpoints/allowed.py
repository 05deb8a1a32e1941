"""Names that a checkpoint may contain for fairseq to build; needs neither torch nor fairseq.

fairseq evaluates options of its own models, criterions and optimizers as Python (see `EVALUATED`), so that a file that
names one of these could run code. All permitted names are listed here, and `check_names` is called for each file that
is read; see `reading.read_checkpoint`.
"""

import argparse
import ast
import re
from typing import Any, Dict, Iterator, Mapping, Set, Tuple

# By section. Extensions are added when they are registered, see `allow`: a file cannot cause an import.
NAMES: Dict[str, Set[str]] = {
    "task": {"ecg_pretraining", "ecg_classification", "ecg_regression"},
    "model": {"ecg_wav2vec2", "wav2vec2_cmsc", "ecg_data2vec", "ecg_jepa", "ecg_cpc", "ecg_transformer_classifier"},
    "criterion": {
        *("wav2vec2_with_cmsc", "data2vec_with_cmsc", "wav2vec", "latent_prediction", "future_contrast"),
        *("binary_cross_entropy_with_logits", "regression", "softmax"),
    },
    # fairseq's own; none is built from a checkpoint
    "optimizer": {
        *("adadelta", "adafactor", "adagrad", "adam", "adamax", "composite", "cpu_adam", "fused_adam", "lamb"),
        *("nag", "sgd"),
    },
    "lr_scheduler": {
        *("cosine", "fixed", "inverse_sqrt", "manual", "pass_through", "polynomial_decay", "reduce_lr_on_plateau"),
        *("step", "tri_stage", "triangular"),
    },
}
# names in ECG-FM's framework; fairseq's own wav2vec2 is for audio, and evaluates text as code
NAMES_OF_ECG_FM = {
    "model": {"wav2vec2": "ecg_wav2vec2"},
    "criterion": {"wav2vec2": "wav2vec"},
}
# options that fairseq passes to Python's eval, in any section
EVALUATED = frozenset(
    (
        *("adam_betas", "adamax_betas", "lamb_betas", "adafactor_eps", "wer_args", "model_overrides"),
        *("pipeline_balance", "pipeline_encoder_balance", "pipeline_decoder_balance"),
        *("pipeline_devices", "pipeline_encoder_devices", "pipeline_decoder_devices"),
        *("conv_feature_layers", "conv_aggregator_layers", "feature_encoder_spec", "override_encoder_layers"),
        *("encoder_layers", "encoder_attention", "decoder_layers", "decoder_attention", "self_attention"),
        *("gated_attention", "project_input", "downsample", "pretrained", "character_filters"),
        *("left_pad_source", "left_pad_target", "xformers_att_config"),
        *("vggblock_config", "vggblock_enc_config", "transformer_config", "transformer_enc_config", "conv_config"),
        *("transformer_dec_config", "conv_dec_config", "conv_enc_config", "transformer_context"),
        *("transformer_sampling", "adaptive_softmax_cutoff", "adaptive_input_cutoff", "decoder_zero_init"),
    )
)
# nobody writes longer texts, and Python's parser has no limit
LONGEST_EXPRESSION = 4000
# "${section.option}", as in fairseq's own defaults
PLAIN_LINK = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")


def allow(section: str, name: str) -> None:
    """Allow checkpoints to name a task, model or criterion that the running program has registered."""
    NAMES[section].add(name)


def check_names(config: Any) -> None:
    """Raise a `ValueError` if a config, or one inside it, names something for fairseq to build that is not in `NAMES`.

    Args:
        config: by sections, plain values, as in a checkpoint.
    """
    for section, values in _sections(config):
        name = values if isinstance(values, str) else values.get("_name")
        if name is not None and not (isinstance(name, str) and name in NAMES[section]):
            known = ", ".join(sorted(NAMES[section]))
            raise ValueError(f"its {section} is {short(name)}, which is not for ECGs here; use one of {known}")


def check_calls(config: Any) -> None:
    """Raise a `ValueError` if an option that fairseq evaluates contains a call, in a config of any model.

    Numbers and lists contain no calls. A text that is not Python is left to fairseq, which cannot run it either. Links
    other than to another option are refused, because they could create such a text; fairseq saves none.
    """
    for values in mappings(config):
        for option, value in values.items():
            for text in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(text, str):
                    continue
                is_evaluated = option in EVALUATED
                if is_evaluated and ("${" in text or _calls(text)):
                    raise ValueError(f"its option {option} {short(text)} is code, which fairseq would run")
                if "${" in text and not PLAIN_LINK.fullmatch(text):
                    raise ValueError(f"its option {short(option)} {short(text)} is to be computed, not a value")


def _calls(text: str) -> bool:
    if len(text) > LONGEST_EXPRESSION:
        return True
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(isinstance(node, (ast.Call, ast.JoinedStr, ast.Await)) for node in ast.walk(tree))


def _sections(config: Any) -> Iterator[Tuple[str, Any]]:
    """Yield the sections with a `_name`, also in configs inside this one and in groups of an optimizer."""
    for values in mappings(config):
        for section in NAMES:
            chosen = values.get(section)
            if isinstance(chosen, argparse.Namespace):
                chosen = vars(chosen)
            # at the top level a text may replace a section; deeper, an option may have the same name
            if isinstance(chosen, Mapping) or (values is config and isinstance(chosen, str)):
                yield section, chosen


def mappings(value: Any) -> Iterator[Mapping[Any, Any]]:
    """Yield all mappings and `Namespace`s in a value, including itself, each only once."""
    seen, left = set(), [value]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            yield value
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value


def short(value: Any) -> str:
    """Return a value as one line for a message."""
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to print the longest ones
        return f"a whole number of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
