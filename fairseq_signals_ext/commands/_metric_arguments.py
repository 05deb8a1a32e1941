"""Options of `evaluate` for metrics and for the choice of thresholds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError

if TYPE_CHECKING:
    from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings

# the threshold if none is chosen
FIXED = "0.5"


class ThresholdChoice(NamedTuple):
    """How thresholds are chosen.

    Attributes:
        rule: the rule, or a number.
        subset: the subset that they are chosen on; None if the rule is a number.
        asked: whether the user gave the rule.
    """

    rule: str
    subset: Optional[str]
    asked: bool


def add_metric_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add options for aggregation, thresholds and intervals."""
    group.add_argument(
        "--aggregate",
        choices=("mean", "max", "ecg-fm"),
        help="how segment scores are combined per recording; ecg-fm: max for five of its labels, mean for others "
        "(default: as in the checkpoint)",
    )
    group.add_argument(
        "--aggregate-label", metavar="LABEL=HOW", nargs="+", action="extend", help="the same for one label: mean or max"
    )
    group.add_argument(
        "--thresholds",
        metavar="RULE",
        help="0.5, f1, youden, sensitivity=0.9 or specificity=0.9 (default f1, see above)",
    )
    group.add_argument("--thresholds-from", metavar="NAME", help="subset to choose thresholds on (default valid)")
    group.add_argument(
        "--resamples", metavar="N", type=int, default=1000, help="bootstrap resamples of patients (default 1000)"
    )
    group.add_argument(
        "--confidence", metavar="P", type=float, default=0.95, help="confidence level of the intervals (default 0.95)"
    )
    group.add_argument("--seed", metavar="N", type=int, default=1, help="random seed of the bootstrap (default 1)")
    group.add_argument(
        "--cinc-weights",
        metavar="CSV",
        type=Path,
        help="weight matrix of the CinC 2021 Challenge, to compute its score",
    )


def evaluation_settings(args: argparse.Namespace) -> "EvaluationSettings":
    """The settings that the options give.

    Raises:
        UserError: a value is out of range, or the Challenge score cannot be computed.
    """
    from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings

    for option, value, fits, wanted in (
        ("resamples", args.resamples, args.resamples >= 1, "1 or more"),
        ("confidence", args.confidence, 0 < args.confidence < 1, "a number between 0 and 1, such as 0.95"),
        ("batch-size", args.batch_size, args.batch_size >= 1, "1 or more"),
        ("jobs", args.jobs, args.jobs >= -1, "0 or more, or -1 for one per core"),
    ):
        if not fits:
            raise UserError(f"--{option} {value}: give {wanted}")
    return EvaluationSettings(
        aggregation=args.aggregate,
        label_aggregation=dict(map(_label_and_way, args.aggregate_label or ())),
        resamples=args.resamples,
        confidence=args.confidence,
        seed=args.seed,
        cinc_weights=args.cinc_weights,
        label_codes=() if args.cinc_weights is None else _label_codes(args),
        progress=True,
    )


def _label_codes(args: argparse.Namespace) -> Sequence[Sequence[str]]:
    """Codes of the labels; raises `UserError` before the work if the Challenge score cannot be computed."""
    from fairseq_signals_ext.data.label_table import read_labels
    from fairseq_signals_ext.evaluation.cinc2021 import load_weights, match_labels, normal_class

    if args.labels is None:
        raise UserError("--cinc-weights: needs --labels, whose label_def.csv has the codes of the labels")
    labels, (classes, _) = read_labels(args.labels), load_weights(args.cinc_weights)
    members = match_labels(labels.names, labels.codes, classes)
    normal_class([name for name, found in zip(classes, members) if found])
    return labels.codes


def _label_and_way(text: str) -> Tuple[str, str]:
    label, _, way = text.rpartition("=")
    if not label or way not in ("mean", "max"):
        raise UserError(f"--aggregate-label {text}: give LABEL=mean or LABEL=max")
    return label, way


def threshold_choice(args: argparse.Namespace) -> ThresholdChoice:
    """The choice of thresholds that the options give.

    Raises:
        UserError: there is no such rule, or no subset to choose them on.
    """
    from fairseq_signals_ext.evaluation.thresholds import parse_rule

    rule, subset = args.thresholds, args.thresholds_from
    if rule is not None and parse_rule(rule) is None:
        if subset is not None:
            raise UserError(f"--thresholds-from {subset}: the threshold {rule} is not chosen on data; leave one out")
        return ThresholdChoice(rule, None, asked=True)
    if subset is None and not (any(args.data.glob("valid.tsv")) or any(args.data.glob("valid-*-of-*.tsv"))):
        if rule is not None:
            hint = "name a subset with --thresholds-from, or give a number"
            raise UserError(f"--thresholds {rule}: {args.data} has no valid.tsv to choose them on; {hint}")
        return ThresholdChoice(FIXED, None, asked=False)
    return ThresholdChoice(rule or "f1", subset or "valid", asked=rule is not None or subset is not None)
