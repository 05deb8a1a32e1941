"""Convert a config of ECG-FM's framework (fairseq-signals) into one for training with stock fairseq here."""

import ast
import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from fairseq_signals_ext.checkpoints.allowed import EVALUATED, LONGEST_EXPRESSION, NAMES, PLAIN_LINK, check_names
from fairseq_signals_ext.checkpoints.architecture import WAV2VEC2
from fairseq_signals_ext.checkpoints.config_differences import (
    LOST_REASONS,
    NEUTRAL,
    OTHER_SECTIONS,
    PATHS,
    RENAMED_KEYS,
    RENAMED_VALUES,
    REQUIRED,
    WITHOUT_EFFECT,
    WRITTEN,
)
from fairseq_signals_ext.checkpoints.config_files import Schema, Sections
from fairseq_signals_ext.checkpoints.plain_configs import check_links, check_plain, resolve_links
from fairseq_signals_ext.checkpoints.reading import with_own_architecture
from fairseq_signals_ext.common.conv_layers import parse_conv_layers
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.requirements import quiet_fairseq

_HEADER = """# @package _global_
# Made from {source} by fairseq-signals-ext config convert; start it with
#
#   fairseq-hydra-train --config-dir FOLDER --config-name NAME_OF_THIS_FILE \\
#       task.data=DIR/splits/NAME common.user_dir="$(fairseq-signals-ext user-dir)"
"""
_MISSING = "???"
_OFF = "not in use there either"
_VALUE_WIDTH = 28

# groups of changes, in the order of the list
RENAMED = "renamed or replaced"
TO_GIVE = "to be given, ??? in the file"
DROPPED = "dropped, without effect here"
LOST = "dropped, though it did something: WARNING"
GROUPS = (RENAMED, TO_GIVE, DROPPED, LOST)

# sections with options that depend on `_name`; a training needs the first three
_CHOSEN = ("task", "model", "criterion", "optimizer", "lr_scheduler")
_NEEDED = _CHOSEN[:3]
_ORDER = (
    *("common", "checkpoint", "task", "dataset", "distributed_training"),
    *("criterion", "optimization", "optimizer", "lr_scheduler", "model"),
)


class Change(NamedTuple):
    """The change of one key.

    Attributes:
        group: one of `GROUPS`.
        key: such as "criterion.all_gather".
        value: the original value.
        reason: why, or the new key.
    """

    group: str
    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class ConvertedConfig:
    """A config for `fairseq-hydra-train`, by sections, and all changes from the original."""

    sections: Sections
    changes: List[Change]


def convert_config(config: Mapping[str, Any], name: str = "config") -> ConvertedConfig:
    """Convert a full config of ECG-FM's framework, or of this package, into one for `fairseq-hydra-train` here.

    It keeps the keys of fairseq's `FairseqConfig` and of the dataclasses of the task, model, criterion, optimizer and
    schedule. A missing key gets its default.

    Args:
        config: by sections, plain values.
        name: of the file, for messages.

    Raises:
        UserError: task, model or criterion is missing or unknown, or an option contains code.
    """
    config, unresolved = _resolved(config, name)
    options = _options_of(config)
    changes = _drop_computed(options, unresolved, name)
    changes += [*_rename_values(options), *_take_architecture(options, config["model"])]
    schemas = _schemas(config, options, name)
    changes += _rename_keys(options, schemas)
    _ask_for(options, schemas)
    changes += [_of_section(section, config[section]) for section in config if section not in schemas]
    options = {key: value for key, value in options.items() if key.split(".")[0] in schemas}
    changes += filter(None, [_what_becomes_of(key, options, schemas) for key in options])
    for change in changes:
        if change.group == TO_GIVE:
            options[change.key] = _MISSING
        elif change.group != RENAMED:
            options.pop(change.key, None)
    for key, value in options.items():
        _refuse_code(key, value, name)
    sections = _by_sections(options, schemas)
    try:
        check_names(sections)
        check_links(sections)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return ConvertedConfig(sections, changes)


def _resolved(config: Mapping[str, Any], name: str) -> Tuple[Dict[str, Any], Mapping[str, str]]:
    """Check that a config is complete and plain, and return the result of `resolve_links`."""
    try:
        check_plain({section: values for section, values in config.items() if section not in OTHER_SECTIONS})
    except ValueError as error:
        raise UserError(f"{name}: {error}; give a whole config, as ECG-FM publishes it") from None
    config, unresolved = resolve_links(config, targets=config)
    missing = [section for section in _NEEDED if not isinstance(config.get(section), dict)]
    if missing:
        raise UserError(f"{name}: has no section {missing[0]!r}; give a whole config, as ECG-FM publishes it")
    return config, unresolved


def _options_of(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Return values by `section.key`."""
    return {
        f"{section}.{key}": value
        for section, values in config.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if key != "_name" or value is not None
    }


def _drop_computed(options: Dict[str, Any], unresolved: Mapping[str, str], name: str) -> List[Change]:
    """Drop, in place, options with a text that OmegaConf would compute, such as `${oc.env:HOME}`."""
    dropped = {".".join(place.split(".")[:2]): text for place, text in unresolved.items()}
    changes = []
    for key, text in dropped.items():
        if key in options:
            _refuse_code(key, options.pop(key), name)
            changes.append(Change(LOST, key, text, "to be computed, and not from other options; set it yourself"))
    return changes


def _refuse_code(key: str, value: Any, name: str) -> None:
    """Check that text that a training runs as Python is plain numbers, also in groups of a composite optimizer."""
    if isinstance(value, (dict, list)):
        for option, part in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_code(f"{key}.{option}", part, name)
    if not isinstance(value, str) or value == _MISSING:
        return
    try:
        if key.endswith(".conv_feature_layers"):
            parse_conv_layers(value)
        elif key.rsplit(".", 1)[-1] in EVALUATED and not (
            len(value) <= LONGEST_EXPRESSION and _is_numbers(ast.literal_eval(value))
        ):
            raise ValueError("not numbers")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        hint = "'[(256, 2, 2)] * 4'" if key.endswith("_layers") else "'(0.9, 0.98)'"
        raise UserError(f"{name}: {key} {_short(value)!r}: is more than plain numbers; write it like {hint}") from None


def _is_numbers(value: Any) -> bool:
    if value == {}:  # empty overrides, as fairseq writes them
        return True
    return all(map(_is_numbers, value)) if isinstance(value, (tuple, list)) else type(value) in (int, float)


def _rename_values(options: Dict[str, Any]) -> List[Change]:
    """Rename, in place, values with other names here."""
    changes = []
    for key, names in RENAMED_VALUES.items():
        old = options.get(key)
        if isinstance(old, str) and old in names:
            options[key] = names[old]
            changes.append(Change(RENAMED, key, old, f"-> {names[old]}"))
    return changes


def _take_architecture(options: Dict[str, Any], model: Mapping[str, Any]) -> List[Change]:
    """Set, in place, the architecture of a classifier's pretrained model, which is in `args`."""
    own = with_own_architecture(model)
    changes = []
    for option in WAV2VEC2.options:
        if own.get(option) != model.get(option):
            key, reason = f"model.{option}", f"-> {_short(own[option])}, as in model.args"
            options[key] = own[option]
            changes.append(Change(RENAMED, key, model.get(option), reason))
    return changes


def _rename_keys(options: Dict[str, Any], schemas: Mapping[str, Schema]) -> List[Change]:
    """Rename keys, in place."""
    changes = []
    for old, new in RENAMED_KEYS.items():
        section, option = new.split(".")
        if old in options and new not in options and section in schemas and option in schemas[section].defaults:
            options[new] = options.pop(old)
            changes.append(Change(RENAMED, old, options[new], f"-> {new}"))
    return changes


def _ask_for(options: Dict[str, Any], schemas: Mapping[str, Schema]) -> None:
    """Mark, in place, options that a training needs and the config lacks."""
    for key, alternatives in REQUIRED.items():
        section, option = key.split(".")
        if option in schemas[section].defaults and all(options.get(one) is None for one in alternatives):
            options[key] = _MISSING


def _schemas(config: Mapping[str, Any], options: Mapping[str, Any], name: str) -> Dict[str, Schema]:
    """Return the options of each section of fairseq."""
    import fairseq_signals_ext

    with quiet_fairseq():
        fairseq_signals_ext.register()
    from fairseq.dataclass.configs import FairseqConfig

    dataclasses = {field.name: field.type for field in fields(FairseqConfig) if is_dataclass(field.type)}
    for section in _CHOSEN:
        if isinstance(config.get(section), dict):
            chosen, here = options.get(f"{section}._name"), _choices(section)
            if not isinstance(chosen, str) or chosen not in here:
                what = "has no _name" if chosen is None else f"{chosen!r:.60} is not here"
                raise UserError(f"{name}: {section} {what}; there are {', '.join(sorted(here))}")
            dataclasses[section] = here[chosen]
    return {section: Schema(kind) for section, kind in dataclasses.items()}


def _choices(section: str) -> Dict[str, Any]:
    """Return the dataclasses of the choices of a section, by name."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    if section in REGISTRIES:
        found = REGISTRIES[section]["dataclass_registry"]
    else:
        found = {"task": TASK_DATACLASS_REGISTRY, "model": MODEL_DATACLASS_REGISTRY}[section]
    return {name: kind for name, kind in found.items() if name in NAMES[section]}


def _of_section(section: str, value: Any) -> Change:
    """Return the change of a section that fairseq, or a training here, does not have."""
    filled = any(value.values()) if isinstance(value, dict) else value
    known = section in OTHER_SECTIONS
    reason = OTHER_SECTIONS.get(section, "no such section here") if filled else _OFF
    return Change(LOST if filled and not known else DROPPED, section, value, reason)


def _what_becomes_of(key: str, options: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Optional[Change]:
    """Return the change of a key; None: no change."""
    value, (section, option) = options[key], key.split(".", 1)
    schema = schemas[section]
    if key in WITHOUT_EFFECT:
        return Change(DROPPED, key, value, WITHOUT_EFFECT[key])
    if option not in schema.defaults:
        return _unknown(key, value)
    if key == "task.normalize" and value and options.get("task.mean_path"):
        return Change(LOST, key, value, "there by task.mean_path and std_path, here each segment as a whole")
    default = schema.defaults[option]
    if value == _MISSING:
        return Change(TO_GIVE, key, value, "missing there")
    if key in PATHS and value and isinstance(value, str) and value != default:
        return Change(TO_GIVE, key, value, "a path of where it was trained")
    if key in WRITTEN and value and value != default:
        return Change(LOST, key, value, "where its runs wrote to; choose your own")
    target = _link(default)
    if target and value == options.get(target, _default(target, schemas)):
        return Change(DROPPED, key, value, f"follows {target}")
    if not schema.takes(option, value):
        return Change(DROPPED if value is None else LOST, key, value, "no such value here, so the default holds")
    return None


def _unknown(key: str, value: Any) -> Change:
    """Return the change of a key that does not exist here."""
    reason = LOST_REASONS.get(key, "nothing here has such an option")
    if key in NEUTRAL:
        return Change(DROPPED if value == NEUTRAL[key] else LOST, key, value, reason)
    return Change(LOST, key, value, reason) if value else Change(DROPPED, key, value, _OFF)


def _link(default: Any) -> Optional[str]:
    """Return the key that gives an option its default, such as `optimization.lr`; None if there is none."""
    found = PLAIN_LINK.fullmatch(default) if isinstance(default, str) else None
    return found.group(1) if found else None


def _default(key: str, schemas: Mapping[str, Schema]) -> Any:
    section, option = key.split(".")
    return schemas[section].defaults.get(option) if section in schemas else None


def _by_sections(options: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Sections:
    """Return sections in the order of our examples, and options in the order of their dataclasses."""
    order = [*_ORDER, *(section for section in schemas if section not in _ORDER)]
    chosen = {
        section: {
            option: options[f"{section}.{option}"]
            for option in schemas[section].defaults
            if f"{section}.{option}" in options
        }
        for section in order
        if section in schemas
    }
    return {section: values for section, values in chosen.items() if values}


def to_yaml(sections: Sections, source: str) -> str:
    """Return the text of the config file; the same for the same config.

    Args:
        source: name of the original file.
    """
    from omegaconf import OmegaConf

    # a file name may contain line breaks
    source = "".join(character if character.isprintable() else "?" for character in source)
    return _HEADER.format(source=source) + OmegaConf.to_yaml(OmegaConf.create(sections))


def list_changes(changes: Sequence[Change]) -> str:
    """Return the changes by groups, one line each: key, value, reason."""
    keys = [change.key for change in changes]
    values = [_short(change.value) for change in changes]
    widths = [max(map(len, texts), default=0) for texts in (keys, values)]
    lines = []
    for group in GROUPS:
        chosen = [number for number, change in enumerate(changes) if change.group == group]
        lines += [f"{group}: {len(chosen)}"] if chosen else []
        lines += [f"  {keys[n]:{widths[0]}}  {values[n]:{widths[1]}}  {changes[n].reason}" for n in chosen]
    return "\n".join(lines)


def _short(value: Any) -> str:
    """Return a value as YAML, cut to a column's width."""
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _VALUE_WIDTH else text[: _VALUE_WIDTH - 3] + "..."
