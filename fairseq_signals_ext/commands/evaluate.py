"""Say how good fine-tuned models are: metrics with intervals, predictions, pictures, and a comparison of several.

examples:
  fairseq-signals-ext evaluate run/checkpoints/checkpoint_best.pt --data DIR/splits/S --subset test \\
      --label-file DIR/labels/L --out evaluation
  fairseq-signals-ext evaluate pretrained.pt random.pt --names pretrained random --data DIR/splits/S --subset test \\
      --label-file DIR/labels/L --out comparison --aggregate max --thresholds sensitivity=0.9 --thresholds-from valid

Leaves metrics.json, per_label.csv, predictions.parquet, segments.parquet (if recordings have several) and pictures in
OUT; for several subsets in OUT/SUBSET, for several checkpoints in OUT/NAME, with comparison.csv, .md and .png in OUT.

With --ensemble all checkpoints are one model, whose scores are the means of theirs, as of predict --ensemble:
  fairseq-signals-ext evaluate --ensemble seed1.pt seed2.pt --data DIR/splits/S --subset test --out evaluation

Segments are evaluated as they are, and aggregated to recordings. Without --thresholds, those with the best F1 on the
subset valid are used, if there is a manifest of it and it is not what is evaluated; otherwise 0.5. If they are asked
to be chosen on what is evaluated, the results say so.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_signals_ext.commands._entry import run_command
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import check_folder_name, check_free, only_one, remove_unfinished

if TYPE_CHECKING:
    from fairseq_signals_ext.evaluation.evaluating import Evaluation, EvaluationSettings, Thresholds
    from fairseq_signals_ext.evaluation.predictions import Predictions

_FIXED = "0.5"


class _ThresholdChoice(NamedTuple):
    """How thresholds come about.

    Attributes:
        rule: how they are chosen, or a number.
        subset: on which they are chosen; None if the rule is a number.
        asked: by the user.
    """

    rule: str
    subset: Optional[str]
    asked: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs="*", type=Path, help="fine-tuned model")
    parser.add_argument(
        "--ensemble",
        metavar="CKPT",
        nargs="*",
        type=Path,
        help="take all checkpoints, those named here and before, for one model; scores are means",
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder with the manifests")
    parser.add_argument("--subset", metavar="NAME", required=True, help="manifests to evaluate, such as test,valid")
    parser.add_argument("--label-file", metavar="FILE", type=Path, help="y.npy or its folder (default: the training's)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the results go")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the checkpoints (default: from their paths)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="segments (default 64)")
    parser.add_argument("--num-workers", metavar="N", type=int, default=1, help="that load data (default 1)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    _add_metric_arguments(parser.add_argument_group("metrics"))


def _add_metric_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--aggregate",
        choices=("mean", "max", "ecg-fm"),
        help="segments to recordings; ecg-fm: max for some labels as in its tutorial, mean for others (default: the "
        "checkpoint's task.aggregate)",
    )
    group.add_argument(
        "--aggregate-label", metavar="LABEL=HOW", nargs="+", action="extend", help="mean or max for one label"
    )
    group.add_argument(
        "--thresholds", metavar="RULE", help="0.5, f1, youden, sensitivity=0.9 or specificity=0.9 (default f1)"
    )
    group.add_argument("--thresholds-from", metavar="NAME", help="subset that they are chosen on (default valid)")
    group.add_argument("--resamples", metavar="N", type=int, default=1000, help="of patients, bootstrap (default 1000)")
    group.add_argument("--confidence", metavar="P", type=float, default=0.95, help="of the intervals (default 0.95)")
    group.add_argument("--seed", metavar="N", type=int, default=1, help="of the bootstrap (default 1)")
    group.add_argument(
        "--cinc-weights", metavar="CSV", type=Path, help="weight matrix of the CinC 2021 Challenge, for its score"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, write and print; returns the exit status.

    Raises:
        UserError: options that do not go together, results that are there already, or what `predict_subset` and
            `evaluate` raise.
    """
    with only_one(args.out):
        return _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from fairseq_signals_ext.evaluation import comparison, report

    # first, as importing fairseq would have every library log all it does to the terminal
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fairseq_signals_ext").setLevel(logging.INFO)
    # of fairseq's use of torch; nothing that a user can change
    warnings.filterwarnings("ignore", module=r"torch\.(nn\.utils\.weight_norm|utils\.data)")
    models = _models(args)
    names, subsets = _names(args, models), _subsets(args)
    folders = _folders(args.out, names, subsets)
    for folder in folders.values():
        remove_unfinished(folder)
        check_free(folder, report.FILES, args.overwrite)
    if len(names) > 1:
        check_free(args.out, comparison.FILES, args.overwrite)
    settings, choice = _settings(args), _threshold_choice(args)
    found: Dict[str, Dict[str, "Evaluation"]] = {subset: {} for subset in subsets}
    for name, checkpoints in zip(names, models):
        model = _Model(checkpoints, args)
        for subset in subsets:
            evaluation = model.evaluate(subset, settings, choice)
            report.write_evaluation(evaluation, folders[name, subset])
            print(f"{model.name}\n{report.as_text(evaluation)}\nresults: {folders[name, subset]}\n")
            found[subset][name] = evaluation
    if len(names) > 1:
        tables = {subset: comparison.compare(evaluations) for subset, evaluations in found.items()}
        comparison.write_comparison(tables, settings, args.out)
        print(f"{comparison.as_text(tables, settings)}\nresults: {args.out}")
    return 0


class _Model:
    """A checkpoint, or several whose scores' means are taken, and what it says of subsets, each predicted once."""

    def __init__(self, checkpoints: Sequence[Path], args: argparse.Namespace):
        from fairseq_signals_ext.inference.predicting_subsets import PredictOptions

        label_file = None if args.label_file is None else str(args.label_file)
        self.name = ", ".join(map(str, checkpoints))
        self._checkpoints, self._data = checkpoints, args.data
        self._options = PredictOptions(
            batch_size=args.batch_size, num_workers=args.num_workers, label_file=label_file, cpu=args.cpu
        )
        self._predicted: Dict[str, List["Predictions"]] = {}

    def segments(self, subset: str) -> "Predictions":
        """Predictions of a subset's segments."""
        from fairseq_signals_ext.evaluation.ensembling import mean_of

        return mean_of(self._of_each(subset))

    def recordings(self, subset: str, settings: "EvaluationSettings") -> "Predictions":
        """Predictions of a subset's recordings: the mean of those that each checkpoint's segments give."""
        from fairseq_signals_ext.evaluation.ensembling import mean_of
        from fairseq_signals_ext.evaluation.evaluating import aggregate

        return mean_of([aggregate(segments, settings) for segments in self._of_each(subset)])

    def _of_each(self, subset: str) -> List["Predictions"]:
        """Predictions of a subset's segments by each checkpoint."""
        from fairseq_signals_ext.evaluation.report import with_record_ids
        from fairseq_signals_ext.inference.predicting_subsets import predict_subset

        if subset not in self._predicted:
            found = [predict_subset(path, self._data, subset, self._options) for path in self._checkpoints]
            self._predicted[subset] = [with_record_ids(one, self._data) for one in found]
        return self._predicted[subset]

    def evaluate(self, subset: str, settings: "EvaluationSettings", choice: "_ThresholdChoice") -> "Evaluation":
        """The evaluation of a subset."""
        from fairseq_signals_ext.evaluation.evaluating import evaluate

        segments, thresholds = self.segments(subset), None
        label_file = self._options.label_file or segments.label_file
        about = {"checkpoint": self.name, "subset": subset, "label_file": label_file}
        if segments.of_kind.has_classes:
            thresholds = self._thresholds(subset, settings, choice)
        elif choice.asked:
            raise UserError(f"--thresholds: {self.name} predicts numbers, not classes; leave it out")
        return evaluate(segments, about, settings, thresholds, self.recordings(subset, settings))

    def _thresholds(
        self, subset: str, settings: "EvaluationSettings", choice: "_ThresholdChoice"
    ) -> Optional["Thresholds"]:
        from fairseq_signals_ext.evaluation.evaluating import Thresholds
        from fairseq_signals_ext.evaluation.thresholds import choose_thresholds

        if self.segments(subset).exclusive:
            if choice.asked:
                told = "classes that exclude one another have none, the most probable is taken"
                raise UserError(f"--thresholds: {self.name}: {told}; leave it out")
            return None
        rule, source = choice.rule, choice.subset
        if source == subset and not choice.asked:  # by default, never on what is evaluated
            rule, source = _FIXED, None
        values, one_class = choose_thresholds(self.recordings(source or subset, settings), rule)
        return Thresholds(values, rule, source, tuple(one_class))


def _models(args: argparse.Namespace) -> List[List[Path]]:
    """The checkpoints of each model to evaluate."""
    checkpoints = [*args.checkpoints, *(args.ensemble or ())]
    if not checkpoints:
        raise UserError("CKPT: none is given; name a fine-tuned model")
    return [[path] for path in checkpoints] if args.ensemble is None else [checkpoints]


def _names(args: argparse.Namespace, models: Sequence[Sequence[Path]]) -> List[str]:
    from fairseq_signals_ext.evaluation.comparison import names_of

    names = args.names or names_of([checkpoints[0] for checkpoints in models])
    if len(names) != len(models) or len(set(names)) < len(names):
        raise UserError(f"--names {' '.join(names)}: give {len(models)} different names, one a checkpoint")
    for name in names if len(names) > 1 else ():
        check_folder_name(name)
    return list(names)


def _subsets(args: argparse.Namespace) -> List[str]:
    subsets = [name for name in args.subset.split(",") if name]
    if not subsets or len(set(subsets)) < len(subsets):
        raise UserError(f"--subset {args.subset!r}: give different names with commas, such as test,valid")
    return subsets


def _folders(out: Path, names: Sequence[str], subsets: Sequence[str]) -> Dict[Tuple[str, str], Path]:
    """Where the results of each model and subset go."""
    return {
        (name, subset): out / (name if len(names) > 1 else "") / (subset if len(subsets) > 1 else "")
        for name in names
        for subset in subsets
    }


def _settings(args: argparse.Namespace) -> "EvaluationSettings":
    from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings

    for option, fits, wanted in (
        ("resamples", args.resamples >= 1, "1 or more"),
        ("confidence", 0 < args.confidence < 1, "a number between 0 and 1, such as 0.95"),
        ("batch_size", args.batch_size >= 1, "1 or more"),
        ("num_workers", args.num_workers >= 0, "0 or more"),
    ):
        if not fits:
            raise UserError(f"--{option.replace('_', '-')} {getattr(args, option)}: give {wanted}")
    return EvaluationSettings(
        aggregation=args.aggregate,
        label_aggregation=dict(map(_label_and_way, args.aggregate_label or ())),
        resamples=args.resamples,
        confidence=args.confidence,
        seed=args.seed,
        cinc_weights=args.cinc_weights,
        label_codes=() if args.cinc_weights is None else _label_codes(args),
        progress=sys.stderr.isatty(),
    )


def _label_codes(args: argparse.Namespace) -> Sequence[Sequence[str]]:
    """Codes of the labels; a `UserError` if the Challenge score cannot be had, before the work."""
    from fairseq_signals_ext.data.label_table import read_labels
    from fairseq_signals_ext.evaluation.cinc2021 import load_weights, match_labels, normal_class

    if args.label_file is None:
        raise UserError("--cinc-weights: needs --label-file, whose label_def.csv has the codes of the labels")
    labels, (classes, _) = read_labels(args.label_file), load_weights(args.cinc_weights)
    members = match_labels(labels.names, labels.codes, classes)
    normal_class([name for name, found in zip(classes, members) if found])
    return labels.codes


def _label_and_way(text: str) -> Tuple[str, str]:
    label, _, way = text.rpartition("=")
    if not label or way not in ("mean", "max"):
        raise UserError(f"--aggregate-label {text}: give LABEL=mean or LABEL=max")
    return label, way


def _threshold_choice(args: argparse.Namespace) -> _ThresholdChoice:
    from fairseq_signals_ext.evaluation.thresholds import parse_rule

    rule, subset = args.thresholds, args.thresholds_from
    if rule is not None and parse_rule(rule) is None:
        if subset is not None:
            raise UserError(f"--thresholds-from {subset}: the threshold {rule} is not chosen on data; leave one out")
        return _ThresholdChoice(rule, None, asked=True)
    if subset is None and not (any(args.data.glob("valid.tsv")) or any(args.data.glob("valid-*-of-*.tsv"))):
        if rule is not None:
            cure = "name a subset with --thresholds-from, or give a number"
            raise UserError(f"--thresholds {rule}: {args.data} has no valid.tsv to choose them on; {cure}")
        return _ThresholdChoice(_FIXED, None, asked=False)
    return _ThresholdChoice(rule or "f1", subset or "valid", asked=rule is not None or subset is not None)


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))
