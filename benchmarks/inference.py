"""How much of a model's own speed is left when it reads files: predict end to end against the model alone.

    python benchmarks/inference.py [--models tiny 4-layer] [--seconds 10] [--rounds 5] [--memory 5000]
                                   [--device cpu] [--bf16] [--jobs 0] [--data FOLDER] [--out FILE.md]
    python benchmarks/inference.py --before ../other-checkout [--models tiny] [--rounds 5]

Both sides take turns in one run, on the same 10 s recordings of 12 leads at 500 Hz. End to end is what `predict` does:
WFDB files are read, checked, standardised, cut, run, aggregated, and a row is written for each. Alone, the same network
gets the same segments as arrays that are ready, in batches of the same size: first one call after the other with all
threads, then as many calls at once as predict makes. End to end is compared with the faster of the two. Files are in
the page cache. Memory is that of the process after the first 500 of 5,000 recordings and at the end.

With --before, predict and evaluate as commands are compared with those of another checkout: two processes that have
imported everything take turns, with a model of the first of --models.

`tiny` has the sizes of configs/pretraining/tiny.yaml, `4-layer` and `base` ECG-FM's with 4 and 12 layers.
"""

import argparse
import itertools
import logging
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from _shared import hand_over, machine, memory_of, write_records
from inference_commits import compare

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.commands._predicting import predict_into
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION
from fairseq_signals_ext.inference.backends import TorchBackend
from fairseq_signals_ext.inference.ensemble import Ensemble
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import segments_of
from fairseq_signals_ext.inference.results import Results
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.readers import read_ecg

TINY = {
    **{"conv_feature_layers": "[(64, 2, 2)] * 4", "encoder_layers": 2, "encoder_embed_dim": 128},
    **{"encoder_ffn_embed_dim": 256, "encoder_attention_heads": 4, "conv_pos": 32, "conv_pos_groups": 8},
}
MODELS: Dict[str, Dict[str, Any]] = {"tiny": TINY, "4-layer": {"encoder_layers": 4}, "base": {"encoder_layers": 12}}
FIRST = 500  # recordings, after which memory must not grow any more


class Round(NamedTuple):
    """Return recordings per second."""

    one_call: float
    calls_at_once: float
    end_to_end: float

    @property
    def ratio(self) -> float:
        """Of end to end to the faster of the others."""
        return self.end_to_end / max(self.one_call, self.calls_at_once)


def made_up_model(sizes: Dict[str, Any], device: str, bf16: bool) -> LoadedModel:
    """Write a classifier with random weights and ECG-FM's 17 labels."""
    from fairseq_signals_ext.inference.network import EcgNetwork
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig

    torch.manual_seed(0)
    names, ways = zip(*ECG_FM_AGGREGATION.items())
    description = ModelDescription("classification", {}, label_names=names, aggregation=ways, thresholds=(0.5,) * 17)
    model = EcgTransformerClassifier(EcgTransformerClassifierConfig(num_labels=17, **sizes)).eval()
    network = EcgNetwork(model, description).requires_grad_(False).eval()
    return LoadedModel(description, TorchBackend(network, device, bf16=bf16), "made up")


def alone(model: LoadedModel, batches: Sequence[Tuple[np.ndarray, np.ndarray]], at_once: int) -> float:
    """Return the network's seconds for prepared batches."""
    start = time.perf_counter()
    with model.divided(at_once) as shared, ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda batch: shared.backend(*batch), batches))
    return time.perf_counter() - start


def end_to_end(model: LoadedModel, files: Sequence[Path], options: RunOptions) -> float:
    """Return the seconds of predict, from files to rows."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out, Results(Path(out), (), {}) as results:
        for _ in predict_into(results, Ensemble([model]), find_inputs(files), options):
            pass
    return time.perf_counter() - start


def measure(
    model: LoadedModel, files: Sequence[Path], options: RunOptions, rounds: int, duration: float
) -> List[Round]:
    """Measure all sides in turn, with the number of recordings for which the network alone takes these seconds."""
    sources, paddings = zip(*(segments_of(read_ecg(file), model.preprocessing) for file in files))
    source, padding = np.concatenate(sources), np.concatenate(paddings)
    starts = range(0, len(source), options.batch_size)
    batches = [
        (source[start : start + options.batch_size], padding[start : start + options.batch_size]) for start in starts
    ]
    alone(model, batches[: options.batches_at_once], options.batches_at_once)  # to warm up
    times = duration / alone(model, batches, options.batches_at_once)
    files, batches = lengthened(files, times), lengthened(batches, times)
    found = []
    for _ in range(rounds):
        seconds = (
            alone(model, batches, 1),
            alone(model, batches, options.batches_at_once),
            end_to_end(model, files, options),
        )
        recordings = sum(len(source) for source, _ in batches) / 2, len(files)
        found.append(Round(*(recordings[side == 2] / one for side, one in enumerate(seconds))))
    return found


def lengthened(items: Sequence[Any], times: float) -> List[Any]:
    """So many times as long, or a part of it."""
    return list(itertools.islice(itertools.cycle(items), max(1, round(len(items) * times))))


def memory(model: LoadedModel, files: Sequence[Path], options: RunOptions, total: int) -> Tuple[float, float]:
    """Return MB after the first recordings and after all."""
    given = list(itertools.islice(itertools.cycle(files), total))
    found = []
    with tempfile.TemporaryDirectory() as out, Results(Path(out), (), {}) as results:
        for number, _ in enumerate(predict_into(results, Ensemble([model]), find_inputs(given), options), 1):
            if number in (FIRST, total):
                found.append(memory_of(os.getpid(), "Rss"))
    return found[0], found[-1]


def row(name: str, model: LoadedModel, rounds: List[Round]) -> str:
    """Return a row of the table: medians, and the range of the ratio."""
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    ratios = sorted(one.ratio for one in rounds)
    columns = [f"{median(values):,.1f}" for values in zip(*rounds)]
    ratio = f"**{median(ratios):.2f}** | {ratios[0]:.2f}-{ratios[-1]:.2f}"
    return f"| {name} | {parameters:,} | {' | '.join(columns)} | {ratio} |"


def report(files: List[Path], args: argparse.Namespace) -> List[str]:
    """Return the table, and lines about memory."""
    options = RunOptions(args.batch_size, args.jobs)
    where = (
        torch.cuda.get_device_name() if args.device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    kind = "bf16" if args.bf16 else "fp32"
    how = f"{kind}, batches of {options.batch_size} segments, {options.batches_at_once} at once, {options.jobs} readers"
    rows = [
        *(machine() + f"; {where}; {how}", ""),
        "| recordings/s | parameters | alone, one call | alone, calls at once | end to end | ratio | range |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in args.models:
        model = made_up_model(MODELS[name], args.device, args.bf16)
        rows.append(row(name, model, measure(model, files, options, args.rounds, args.seconds)))
        print(rows[-1])
    if args.memory:
        model = made_up_model(TINY, args.device, args.bf16)
        before, after = memory(model, files, options, args.memory)
        rows += [
            "",
            f"Memory of the process after {FIRST} recordings {before:.0f} MB, after {args.memory:,} {after:.0f} MB.",
        ]
    return rows


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["tiny", "4-layer"], help="default tiny, 4-layer"
    )
    parser.add_argument("--recordings", type=int, default=100, help="made-up files, of 10 s each (default 100)")
    parser.add_argument("--seconds", type=float, default=10, help="that a side takes in a round, about (default 10)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument(
        "--memory", type=int, default=5000, help="recordings over which memory is watched (default 5000)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="segments in a batch (default 32)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--jobs", type=int, default=0, help="processes that read (default 0: a thread)")
    parser.add_argument("--data", type=Path, help="folder of WFDB records; default: made-up ones")
    parser.add_argument("--before", type=Path, help="compare the commands with those of this checkout")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        if args.data is None:
            write_records(Path(name), args.recordings)
        records = args.data or Path(name)
        if args.before is not None:
            with tempfile.TemporaryDirectory() as made:
                rows = compare(args.before, records, MODELS[args.models[0]], args.rounds, Path(made))
            hand_over([machine(), "", *rows], args.out)
            return
        hand_over(report(sorted(records.rglob("*.hea")), args), args.out)


if __name__ == "__main__":
    main()
