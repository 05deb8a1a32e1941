"""Show the contents of a checkpoint or an export; fairseq is not needed.

examples:
  fairseq-signals-ext inspect run/checkpoints/checkpoint_best.pt
  fairseq-signals-ext inspect mimic_iv_ecg_finetuned.pt --json | jq .labels
  fairseq-signals-ext inspect model-onnx    # folder of an export

Prints the architecture, the number of parameters of each part, how recordings
are turned into its input, labels with their thresholds, and the settings,
progress and origin of the training.
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from fairseq_signals_ext.common.values import as_size, as_time

_WIDTH = 110
_NAME_WIDTH = 26
# facts with several values, shown on one line each
_SEVERAL = ("parts", "augmentations", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("model", metavar="CKPT", type=Path, help="checkpoint, or the folder of an export")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Inspect a model and print its facts.

    Raises:
        UserError: see `inspect_model`.
    """
    from fairseq_signals_ext.checkpoints.inspecting import inspect_model  # with numpy, which --help does not need

    facts = inspect_model(options.model)
    print(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) if options.json else as_text(facts))
    return 0


def as_text(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the facts of `inspect_model` as aligned lines of at most 110 characters, except for longer names."""
    blocks = []
    for section, values in _with_metric_named(facts).items():
        lines = [section.replace("_", " ")]
        for name, value in values.items():
            if section == "labels" and name == "labels":
                lines += _table(value)
            elif section == "labels" and name == "notes":
                lines += [line for note in value or () for line in _rows("note", note)]
            elif name in _SEVERAL:
                lines += [line for inner, of_it in value.items() for line in _rows(inner, of_it)]
            else:
                lines += _rows(name, value)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _with_metric_named(facts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Add the name of the metric that chose the best checkpoint to its values."""
    metric = facts.get("progress", {}).get("best_checkpoint_metric")
    if metric is None:
        return facts
    names = {"best": f"best {metric}", "last_validation": f"last validation {metric}"}
    return {**facts, "progress": {names.get(name, name): value for name, value in facts["progress"].items()}}


def _rows(name: str, value: Any) -> List[str]:
    """Lines with name and value; long values are wrapped and indented, unknown ones are left out."""
    special = {"bytes": ("size", as_size), "training_seconds": ("training time", as_time)}
    label, as_words = special.get(name, (name.replace("_", " "), _text))
    text = as_words(value) if value is not None else ""
    if not text:
        return []
    indent = " " * (_NAME_WIDTH + 2)
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {label:{_NAME_WIDTH}}", subsequent_indent=indent, **options)  # type: ignore


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(inner if key == "_name" else f"{key}={_option(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_text(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else _option(value)


def _option(value: Any) -> str:
    """A value as written on a command line."""
    if isinstance(value, list):
        return f"[{', '.join(_option(inner) for inner in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _table(labels: Sequence[Mapping[str, Any]]) -> List[str]:
    """One line per label, with a heading."""
    columns: Dict[str, List[str]] = {"": [str(number) for number in range(len(labels))]}
    for column in labels[0]:
        columns[column] = [_text(label[column]) for label in labels]
    widths = {column: max(len(text) for text in (column, *texts)) for column, texts in columns.items()}
    rows = [list(columns), *(list(row) for row in zip(*columns.values()))]
    return ["  " + "  ".join(f"{text:{width}}" for text, width in zip(row, widths.values())).rstrip() for row in rows]
