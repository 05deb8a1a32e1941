"""Whether calibrated models keep their promises: errors of decisions, calibration, shift to other sources, refusal.

    python benchmarks/calibration.py CKPT --data DIR/splits/S --subset NAME --labels DIR/labels/L
        [--other NAME=DIR/LABELS ...] [--splits 200] [--miss 0.05] [--false-alarm 0.1] [--refuse 0.02] [--out FILE.md]

CKPT was not trained on NAME. Each DIR after --other is a prepared folder of another source, all of it, with labels of
the same names. Everything is measured on recordings that the calibration has not seen:

* Promises: patients of NAME are divided at random into two halves, 200 times; one calibrates, on the other errors are
  counted (one recording of each patient). The band is what a binomial distribution with the promised rate allows.
* Shift: calibrated on all of NAME, tested on other sources; then calibrated on half of that source's patients.
* Refusal: fitted on half of the patients of NAME; how much is refused of the others, and of what is made of these:
  pulses, noise, flat lines, leads in another order or upside down, a wrong sample rate, two leads. Beside it the AUROC
  of the score, and that of the usual baseline, the largest probability (Hendrycks and Gimpel 2017).
"""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from _shared import hand_over, machine
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.evaluation.calibrating import Seen, Wanted, calibrate_labels, fit_refusal
from fairseq_signals_ext.evaluation.decisions import Calibration, LabelCalibration
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.selective import EVERYBODY, table_of
from fairseq_signals_ext.inference.calibrating import Scored, score_subset
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.inference.subsets import Subset
from fairseq_signals_ext.readers import Recording

_RATES = ("miss", "false_alarm")
# recordings that are changed, and from how many divisions of the patients
_CHANGED, _HALVES = 400, 8


def some_of(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    """Return the values of some recordings."""
    arrays = {name: getattr(predictions, name)[chosen] for name in ("scores", "targets", "idx", "patient")}
    return dataclasses.replace(predictions, **arrays)


def halves(patients: np.ndarray, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the recordings of each half of the patients."""
    drawn = np.random.default_rng(seed).permutation(np.unique(patients))
    first = np.isin(patients, drawn[: len(drawn) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def tested(calibrated_on: Predictions, test: Predictions, wanted: Wanted) -> "Dict[str, Dict[str, Any]]":
    """Return by label the row of `table_of` for all recordings; empty if nothing can be promised."""
    try:
        labels = calibrate_labels(calibrated_on, wanted)
    except UserError:
        return {}
    everybody = table_of(test, Calibration(labels), np.full(len(test), True), {}, wanted.seed)
    return {row["label"]: row for row in everybody[everybody["group"] == EVERYBODY].to_dict("records")}


def promises(predictions: Predictions, wanted: Wanted, splits: int) -> List[str]:
    """Return rows of the table of promises."""
    found: Dict[str, List[Dict[str, Any]]] = {name: [] for name in predictions.label_names}
    for seed in tqdm(range(splits), desc="splits", leave=False):
        one, other = halves(predictions.patient, seed)
        rows = tested(some_of(predictions, one), some_of(predictions, other), wanted._replace(seed=seed))
        for name, row in rows.items():
            found[name].append(row)
    lines = [
        "| label | missed: promised | mean | splits within the band | false alarms: promised | mean | within the band "
        "| uncertain | ECE before | after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in found.items():
        rates = [_against_promise(rows, rate) for rate in _RATES]
        means = [np.nanmean([row[column] for row in rows]) for column in ("uncertain", "ece_before", "ece_after")]
        ends = f"{means[0]:.0%} | {means[1]:.3f} | {means[2]:.3f}"
        lines.append(f"| {name} | {rates[0]} | {rates[1]} | {ends} |")
    return lines


def _against_promise(rows: List[Dict[str, Any]], rate: str) -> str:
    counts = {"miss": "positives", "false_alarm": "negatives"}[rate]
    kept = [row for row in rows if not np.isnan(row[f"{rate}_promised"])]
    if not kept:
        return "nothing | - | -"
    promised = kept[0][f"{rate}_promised"]
    within = [row[rate] * row[counts] <= binom.ppf(0.975, row[counts], promised) for row in kept]
    mean = np.mean([row[rate] for row in kept])
    return f"{promised:.0%} | {mean:.1%} | {np.mean(within):.0%} of {len(kept)}"


def shift(own: Predictions, others: Dict[str, Predictions], wanted: Wanted, splits: int) -> List[str]:
    """Return rows for other sources: calibrated on ours, and on half of their own patients."""
    lines = [
        "| source | label | positives | missed | false alarms | ECE | calibrated there: missed | false alarms | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for source, other in others.items():
        from_here = tested(own, other, wanted)
        local = [
            tested(some_of(other, one), some_of(other, two), wanted)
            for one, two in (halves(other.patient, seed) for seed in range(splits))
        ]
        for name in own.label_names:
            row = from_here.get(name)
            if row is None or not row["positives"]:
                continue
            there = [rows[name] for rows in local if name in rows and not np.isnan(rows[name]["miss_promised"])]
            lines.append(f"| {source} | {name} | {row['positives']} | {_errors([row])} | {_errors(there)} |")
    return lines


def _errors(rows: List[Dict[str, Any]]) -> str:
    if not rows:
        return "too few | too few | too few"
    means = [np.nanmean([row[name] for row in rows]) for name in (*_RATES, "ece_after")]
    return f"{means[0]:.1%} | {means[1]:.1%} | {means[2]:.3f}"


def _pulses(recording: Recording, rng: np.random.Generator) -> Recording:
    """Return only calibration pulses of 1 mV, 0.2 s per second."""
    time = np.arange(recording.samples) / recording.sample_rate
    return _with(recording, np.tile((time % 1 < 0.2).astype(float), (len(recording.leads), 1)))


def _noise(recording: Recording, rng: np.random.Generator) -> Recording:
    spread = np.nanstd(recording.signal, axis=1, keepdims=True)
    return _with(recording, rng.normal(0, 1, recording.signal.shape) * spread)


def _flat(recording: Recording, rng: np.random.Generator) -> Recording:
    return _with(recording, rng.normal(0, 0.002, recording.signal.shape))


def _shuffled(recording: Recording, rng: np.random.Generator) -> Recording:
    return _with(recording, recording.signal[rng.permutation(len(recording.leads))])


def _upside_down(recording: Recording, rng: np.random.Generator) -> Recording:
    return _with(recording, -recording.signal)


def _arms_swapped(recording: Recording, rng: np.random.Generator) -> Recording:
    """Electrodes of the arms exchanged: -I, III, II, aVL, aVR, aVF."""
    signal = recording.signal.copy()
    signal[:6] = -signal[0], signal[2], signal[1], signal[4], signal[3], signal[5]
    return _with(recording, signal)


def _too_fast(recording: Recording, rng: np.random.Generator) -> Recording:
    """100 Hz taken as 500 Hz, repeated to the same length."""
    slow = recording.signal[:, :: round(recording.sample_rate / 100)]
    return _with(recording, np.tile(slow, 5)[:, : recording.samples])


def _too_slow(recording: Recording, rng: np.random.Generator) -> Recording:
    """500 Hz taken as 100 Hz."""
    return dataclasses.replace(recording, sample_rate=recording.sample_rate / 5)


def _two_leads(recording: Recording, rng: np.random.Generator) -> Recording:
    return dataclasses.replace(recording, physical=recording.signal[:2], stored=None, leads=recording.leads[:2])


def _with(recording: Recording, signal: np.ndarray) -> Recording:
    return dataclasses.replace(recording, physical=signal, stored=None)


CHANGES: Dict[str, Callable[[Recording, np.random.Generator], Recording]] = {
    "calibration pulses": _pulses,
    "noise": _noise,
    "flat lines": _flat,
    "leads in random order": _shuffled,
    "all leads upside down": _upside_down,
    "arm electrodes exchanged": _arms_swapped,
    "100 Hz taken as 500 Hz": _too_fast,
    "500 Hz taken as 100 Hz": _too_slow,
    "leads I and II only": _two_leads,
}


def refusals(model: LoadedModel, manifest: Path, scored: Scored, share: float) -> List[str]:
    """Return rows of the table of refusals, over several halves of the patients."""
    inputs, thresholds = find_inputs([manifest]), []
    found: Dict[Optional[str], List[Any]] = {name: [] for name in (None, *CHANGES)}
    for seed in tqdm(range(_HALVES), desc="refusal", leave=False):
        fitted, others = halves(scored.predictions.patient, seed)
        refusal = fit_refusal(Seen(*(_chosen(values, fitted) for values in scored.seen)), share)
        calibration = Calibration((LabelCalibration(),) * len(model.label_names), refusal)
        description = dataclasses.replace(model.description, calibration=calibration)
        refusing = LoadedModel(description, model.backend, model.source, model.task_options)
        drawn = np.random.default_rng(seed).permutation(others)[: _CHANGED // _HALVES]
        recordings = [inputs.read(int(number)).recording for number in drawn]
        thresholds += [refusal.threshold] * len(recordings)
        for name in found:
            found[name] += _told(refusing, recordings, None if name is None else CHANGES[name])
    good = found.pop(None)
    limits = np.array(thresholds)
    lines = ["| what | refused | AUROC of the score | of the largest probability |", "| --- | --- | --- | --- |"]
    lines.append(f"| as they are ({len(good)}) | {_refused(good, limits)} | | |")
    for name, changed in found.items():
        target = np.r_[np.zeros(len(good)), np.ones(len(changed))]
        aurocs = [roc_auc_score(target, [one[which] for one in (*good, *changed)]) for which in (0, 1)]
        lines.append(f"| {name} | {_refused(changed, limits)} | {aurocs[0]:.3f} | {aurocs[1]:.3f} |")
    return lines


def _chosen(values: Any, which: np.ndarray) -> Any:
    return values[which] if isinstance(values, np.ndarray) else [values[one] for one in which]


def _told(model: LoadedModel, recordings: List[Recording], change: Optional[Callable[..., Recording]]) -> Iterator[Any]:
    """Yield the score of the refusal, and the uncertainty by the largest probability; infinite for an error."""
    rng = np.random.default_rng(0)
    for recording in recordings:
        try:
            found = model.predict(recording if change is None else change(recording, rng))
        except UserError:
            yield 1e9, 1.0
            continue
        yield found.refusal_score, -float(np.maximum(found.scores, 1 - found.scores).max())


def _refused(told: List[Any], thresholds: np.ndarray) -> str:
    return f"{np.mean(np.array([score for score, _ in told]) > thresholds):.1%}"


def report(args: argparse.Namespace) -> List[str]:
    """Return the lines of the report."""
    model, wanted, how = fairseq_signals_ext.load(args.checkpoint), Wanted(args.miss, args.false_alarm), RunOptions()
    own = score_subset(model, Subset(model, args.data, args.subset, str(args.labels)), how)
    others = {}
    for text in args.other:
        name, _, place = text.partition("=")
        folder, labels = Path(place).parent, Path(place).parent / "labels" / Path(place).name
        others[name] = score_subset(model, Subset(model, folder, "all", str(labels)), how).predictions
    predictions = own.predictions
    about = f"{len(predictions)} recordings of {len(np.unique(predictions.patient))} patients"
    lines = [machine(), "", f"## Promises, {about}, {args.splits} splits", ""]
    lines += promises(predictions, wanted, args.splits)
    if others:
        lines += ["", "## Other sources", "", *shift(predictions, others, wanted, 20)]
    lines += ["", f"## Refusal of {args.refuse:.0%}", ""]
    return lines + refusals(model, args.data / f"{args.subset}.tsv", own, args.refuse)


@exits_on_user_error
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path, required=True)
    parser.add_argument("--subset", metavar="NAME", required=True)
    parser.add_argument("--labels", metavar="DIR", type=Path, required=True)
    parser.add_argument("--other", metavar="NAME=DIR/LABELS", nargs="*", default=[])
    parser.add_argument("--splits", metavar="N", type=int, default=200)
    parser.add_argument("--miss", metavar="X", type=float, default=0.05)
    parser.add_argument("--false-alarm", metavar="X", type=float, default=0.10)
    parser.add_argument("--refuse", metavar="X", type=float, default=0.02)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the report to this file as well")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    hand_over(report(args), args.out)


if __name__ == "__main__":
    main()
