"""The work of `evaluate`: run models on subsets, or on parts of them, and evaluate their predictions."""

import argparse
import functools
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.commands._metric_arguments import (
    FIXED,
    ThresholdChoice,
    evaluation_settings,
    threshold_choice,
)
from fairseq_signals_ext.commands._parts import Job, run_job
from fairseq_signals_ext.commands._run_arguments import is_divided
from fairseq_signals_ext.commands._run_settings import identity, worker_processes
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_files, check_folder_name, only_one, remove_unfinished
from fairseq_signals_ext.evaluation import comparison, report, selective
from fairseq_signals_ext.evaluation.evaluating import Evaluation as OneEvaluation
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, Thresholds, aggregate, evaluate
from fairseq_signals_ext.evaluation.predictions import Predictions, mean_of
from fairseq_signals_ext.evaluation.thresholds import choose_thresholds
from fairseq_signals_ext.inference import loading, subsets
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.parts import Part, SomeInputs
from fairseq_signals_ext.inference.results import Kept, Results, check_results
from fairseq_signals_ext.inference.running import RunOptions


def evaluate_models(options: argparse.Namespace) -> int:
    """Evaluate, write and print; returns the exit status. See `evaluate.run`."""
    if is_divided(options):
        options.resume = not options.overwrite  # an interrupted part continues when it is run again
        return run_job(Evaluation, options)
    with only_one(options.out):
        job = Evaluation(options)
        check_results(options.out, Evaluation.files(options), False, options.overwrite)
        return job.run()


# a model's number and a subset -> predictions for the segments
Predict = Callable[[int, str], Predictions]


class Evaluation(Job):
    """Predictions of models for subsets, and their evaluation."""

    name = "evaluate"
    has_record = False  # it has no --resume

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._groups, self._subsets = _models(options), _subsets(options)
        self._names = _names(options, self._groups)
        self._sources = [str(path) for paths in self._groups for path in paths]
        self._folders = _folders(options.out, self._names, self._subsets)
        self._settings, self._choice = evaluation_settings(options), threshold_choice(options)
        self._label_file = None if options.labels is None else str(options.labels)

    @staticmethod
    def files(options: argparse.Namespace) -> List[str]:
        """Files of each model and subset, and of the comparison."""
        names = _names(options, _models(options))
        folders = _folders(Path(), names, _subsets(options)).values()
        compared = comparison.FILES if len(names) > 1 else ()
        files = [*report.FILES, *(selective.FILES if options.selective else ())]
        return [*(str(folder / file) for folder in folders for file in files), *compared]

    def settings(self) -> Dict[str, Any]:
        """All settings that change the scores."""
        fingerprints = [[number, name, subset.fingerprint()] for number, name, subset in self._work]
        sources = identity(self._sources)
        return {"checkpoints": sources, "recordings": fingerprints, "label file": self._label_file}

    @functools.cached_property
    def _loaded(self) -> List[LoadedModel]:
        return [self._load(source) for source in self._sources]

    def _load(self, source: str) -> LoadedModel:
        return loading.load_model(source, device=self._options.device)

    def _check_selective(self, model: LoadedModel) -> None:
        """Raise a `UserError` for --selective with a model that makes no decisions."""
        if self._options.selective and any(len(group) > 1 for group in self._groups):
            raise UserError("--selective: an ensemble has no calibration of its own; evaluate its models one by one")
        if self._options.selective and model.description.calibration is None:
            raise UserError(f"--selective: {model.source} is not calibrated; run fairseq-signals-ext calibrate first")

    @property
    def _how(self) -> RunOptions:
        return RunOptions(self._options.batch_size, worker_processes(self._options))

    @functools.cached_property
    def _work(self) -> List[Tuple[int, str, subsets.Subset]]:
        """Pairs of a model's number and a subset that it is run on."""
        work = []
        for number, model in enumerate(self._loaded):
            model.check_predicts()
            self._check_selective(model)
            chooses = model.description.of_kind.has_classes and not model.description.is_exclusive
            chosen_on = [self._choice.subset] if chooses and self._choice.subset is not None else []
            for name in dict.fromkeys([*self._subsets, *chosen_on]):
                work.append((number, name, subsets.Subset(model, self._options.data, name, self._label_file)))
        return work

    def inputs(self, part: Part) -> int:
        """The number of recordings in a part, for all models and subsets."""
        return sum(len(part.range_of(len(subset))) for _, _, subset in self._work)

    def fill(self, results: Results, part: Part) -> Iterator[None]:
        """Add a row per recording: its labels and ids, and the scores of its segments."""
        left_out = results.done
        for number, name, subset in self._work:
            some = SomeInputs(subset, part.range_of(len(subset)))
            start = min(left_out, len(some))
            left_out -= start
            for scored in subsets.segment_scores(self._loaded[number], some, self._how, start):
                known = {**scored.known._asdict(), "target": scored.known.target.tolist()}
                row = {**known, "scores": scored.scores.tolist(), "refusal": scored.prediction.refusal_score}
                results.add(f"{number} {name}", row)
                results.count(scored.ends_batch)
                yield

    def finish(self, results: Kept) -> int:
        """Evaluate the predictions."""
        given = {(number, name): subset for number, name, subset in self._work}

        def predict(number: int, name: str) -> Predictions:
            rows = list(results.rows(f"{number} {name}"))
            known = [subsets.Known(row["idx"], row["patient"], np.array(row["target"], np.float64)) for row in rows]
            scores = [np.array(row["scores"], np.float64) for row in rows]
            return given[number, name].predictions(known, scores, [row["refusal"] for row in rows])

        status = self.evaluate(predict)
        results.clean()
        return status

    def run(self) -> int:
        """Predict and evaluate at once; returns the exit status."""
        loaded: Dict[int, LoadedModel] = {}

        def predict(number: int, name: str) -> Predictions:
            if number not in loaded:
                if self._options.ensemble is None:
                    loaded.clear()  # one model in memory is enough
                loaded[number] = self._load(self._sources[number])
                self._check_selective(loaded[number])
            subset = subsets.Subset(loaded[number], self._options.data, name, self._label_file)
            return subsets.predict_subset(loaded[number], subset, self._how)

        return self.evaluate(predict)

    def evaluate(self, predict: Predict) -> int:
        """Evaluate, write and print; returns the exit status."""
        for folder in self._folders.values():
            remove_unfinished(folder)
        found: Dict[str, Dict[str, OneEvaluation]] = {subset: {} for subset in self._subsets}
        first = 0
        for name, checkpoints in zip(self._names, self._groups):
            numbers = range(first, first + len(checkpoints))
            first = numbers.stop
            model = _Model(", ".join(map(str, checkpoints)), numbers, predict, self._options)
            for subset in self._subsets:
                evaluation = model.evaluate(subset, self._settings, self._choice)
                folder = self._folders[name, subset]
                report.write_evaluation(evaluation, folder)
                print(f"{model.name}\n{report.as_text(evaluation)}\nresults: {folder}\n")
                if self._options.selective:
                    print(self._selective(evaluation, folder))
                found[subset][name] = evaluation
        if len(self._names) > 1:
            tables = {subset: comparison.compare(evaluations) for subset, evaluations in found.items()}
            comparison.write_comparison(tables, self._settings, self._options.out)
            print(f"{comparison.as_text(tables, self._settings)}\nresults: {self._options.out}")
        return 0

    def _selective(self, evaluation: OneEvaluation, folder: Path) -> str:
        """Evaluate the decisions of a calibrated model; returns what to print."""
        recordings = evaluation.recordings
        about = report.facts_of_recordings(recordings, self._options.data, ("age", "sex", "source"))
        found = selective.evaluate_selective(recordings, recordings.calibration, about, self._options.seed)
        with atomic_files(folder, selective.FILES) as new:
            selective.write_selective(found, new)
        return f"{selective.as_text(found)}\n"


class _Model:
    """A checkpoint, or an ensemble of several, and its predictions for subsets; each subset is predicted once.

    Args:
        name: of its checkpoints.
        numbers: of its checkpoints, for `predict`.
    """

    def __init__(self, name: str, numbers: Sequence[int], predict: Predict, options: argparse.Namespace):
        self.name, self._numbers, self._predict = name, numbers, predict
        self._label_file = None if options.labels is None else str(options.labels)
        self._data = options.data
        self._predicted: Dict[str, List[Predictions]] = {}

    def segments(self, subset: str) -> Predictions:
        """Predictions of a subset's segments."""
        return mean_of(self._of_each(subset))

    def recordings(self, subset: str, settings: EvaluationSettings) -> Predictions:
        """Predictions of a subset's recordings: the mean of all checkpoints, after aggregation of segments."""
        return mean_of([aggregate(segments, settings) for segments in self._of_each(subset)])

    def _of_each(self, subset: str) -> List[Predictions]:
        """Predictions of a subset's segments by each checkpoint."""
        if subset not in self._predicted:
            found = [self._predict(number, subset) for number in self._numbers]
            self._predicted[subset] = [report.with_record_ids(one, self._data) for one in found]
        return self._predicted[subset]

    def evaluate(self, subset: str, settings: EvaluationSettings, choice: ThresholdChoice) -> OneEvaluation:
        """The evaluation of a subset."""
        segments, thresholds = self.segments(subset), None
        label_file = self._label_file or segments.label_file
        about = {"checkpoint": self.name, "subset": subset, "label_file": label_file}
        if segments.of_kind.has_classes:
            thresholds = self._thresholds(subset, settings, choice)
        elif choice.asked:
            raise UserError(f"--thresholds: {self.name} predicts numbers, not classes; leave it out")
        return evaluate(segments, about, settings, thresholds, self.recordings(subset, settings))

    def _thresholds(self, subset: str, settings: EvaluationSettings, choice: ThresholdChoice) -> Optional[Thresholds]:
        if self.segments(subset).exclusive:
            if choice.asked:
                problem = "classes that exclude one another have none, the most probable is taken"
                raise UserError(f"--thresholds: {self.name}: {problem}; leave it out")
            return None
        rule, source = choice.rule, choice.subset
        if source == subset and not choice.asked:  # the default never chooses thresholds on the evaluated subset
            rule, source = FIXED, None
        values, one_class = choose_thresholds(self.recordings(source or subset, settings), rule)
        return Thresholds(values, rule, source, tuple(one_class))


def _models(args: argparse.Namespace) -> List[List[Path]]:
    """The checkpoints of each model to evaluate."""
    checkpoints = [*args.checkpoints, *(args.ensemble or ())]
    if not checkpoints:
        raise UserError("CKPT: none is given; name a fine-tuned model")
    return [[path] for path in checkpoints] if args.ensemble is None else [checkpoints]


def _names(args: argparse.Namespace, models: Sequence[Sequence[Path]]) -> List[str]:
    names = args.names or comparison.names_of([checkpoints[0] for checkpoints in models])
    if len(names) != len(models) or len(set(names)) < len(names):
        raise UserError(f"--names {' '.join(names)}: give {len(models)} different names, one per checkpoint")
    for name in names if len(names) > 1 else ():
        check_folder_name(name)
    return list(names)


def _subsets(args: argparse.Namespace) -> List[str]:
    names = [name for name in args.subset.split(",") if name]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--subset {args.subset!r}: give different names with commas, such as test,valid")
    return names


def _folders(out: Path, names: Sequence[str], of_subsets: Sequence[str]) -> Dict[Tuple[str, str], Path]:
    """Folder for the results of each model and subset."""
    return {
        (name, subset): out / (name if len(names) > 1 else "") / (subset if len(of_subsets) > 1 else "")
        for name in names
        for subset in of_subsets
    }
