"""What an update consists of, and what that means for a GPU: operations, FLOPs and bytes, without a GPU.

    python benchmarks/operations.py [--config ecg_fm] [--pairs 2 4] [--at 171] [--out FILE.md]

For the stock path and each switch that trains faster, one update is traced by torch's dispatcher, for two sizes of the
batch. Views are not counted, as no kernel runs for them. An operation's FLOPs are those of torch's FlopCounterMode, its
bytes those of its inputs and outputs; both grow with the batch in a straight line, which gives those of `--at` pairs.

The model on paper: an operation takes max(FLOPs / peak, bytes / bandwidth), as if each tensor were read from and
written to the GPU's memory, and not less than a kernel takes to start. It is optimistic (no operation reaches its
peak) and pessimistic (the cache of 50 MB is left out, and `model.compile` merges operations that are traced one by
one). The peak is measured (benchmarks/results/training_gpu.md), bandwidth and start are NVIDIA's for an H200.
"""

import argparse
import logging
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from _shared import FAST, STOCK, SWITCHES, compose_config, hand_over, machine, noise, write_shards
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm
from training_comparison import Arrangement, load_batches

import fairseq_signals_ext

# FLOP/s of matrix products and bytes/s of an H200, and the least seconds that a kernel takes
PEAKS = {"fp32": 51.0e12, "bf16": 796.6e12}
BANDWIDTH, START = 4.8e12, 3e-6
_WARM_UP = 1
_SHOWN = 8
_GOAL = 0.4


class Work(NamedTuple):
    """Work of one kind of operation in an update.

    Attributes:
        calls: number of them.
        flops, moved: in all; bytes.
        seconds: by the model on paper.
    """

    calls: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    seconds: float = 0.0

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        """Return the sum with a multiple of another."""
        return Work(*(a + times * b for a, b in zip(self, other)))


class Trace(TorchDispatchMode):
    """While active, sums the work of each kind of operation.

    Attributes:
        found: by name and kind of numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Dict[Tuple[str, str], Work] = defaultdict(Work)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        """Run the operation, and add it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given, made = list(_tensors((args, kwargs))), list(_tensors(out))
        if not made or (_share_memory(given, made) and not func._schema.is_mutable):
            return out
        count = flop_registry.get(func.overloadpacket)
        flops = 0.0 if count is None else float(count(*args, **kwargs, out_val=out))
        moved = float(sum(one.numel() * one.element_size() for one in (*given, *made)))
        precision = "bf16" if any(one.dtype == torch.bfloat16 for one in given) else "fp32"
        seconds = max(flops / PEAKS[precision], moved / BANDWIDTH)
        key = str(func.overloadpacket).split(".")[-1], precision
        self.found[key] = self.found[key].plus(Work(1, flops, moved, seconds))
        return out


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (one for one in tree_leaves(values) if isinstance(one, torch.Tensor))


def _share_memory(given: List[torch.Tensor], made: List[torch.Tensor]) -> bool:
    """Whether the result is only a view of an argument."""
    storages = {one.untyped_storage()._cdata for one in given}
    return all(one.untyped_storage()._cdata in storages for one in made)


def traced(config: str, pairs: int, switches: List[str]) -> Dict[Tuple[str, str], Work]:
    """Count one update, after one that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), pairs * (_WARM_UP + 1), noise())
        arrangement = Arrangement(compose_config(Path(folder), pairs, "fp32", switches, config))
        batches = load_batches(arrangement.trainer)
        arrangement.trainer.begin_epoch(1)
        arrangement.update(batches[0])
        with Trace() as trace:
            arrangement.trainer.train_step([batches[1]])
    return trace.found


def at(pairs: int, few: int, more: int, of_few: Dict[Any, Work], of_more: Dict[Any, Work]) -> Dict[Any, Work]:
    """Return the work of an update with this number of pairs, by linear extrapolation from two others."""
    times = (pairs - few) / (more - few)
    found = {}
    for key in {*of_few, *of_more}:
        low, high = of_few.get(key, Work()), of_more.get(key, Work())
        grown = low.plus(high.plus(low, -1), times)
        # what does not grow, such as the optimizer, may shrink by rounding
        found[key] = Work(*(max(value, 0.0) for value in grown))
    return found


def seconds_of(works: Dict[Any, Work]) -> float:
    """Return the calculated seconds; no kernel takes less than its start."""
    return sum(max(work.seconds, work.calls * START) for work in works.values())


def rows_of(name: str, works: Dict[Any, Work], pairs: int, useful: float) -> str:
    """Return a row of the table of arrangements."""
    seconds = seconds_of(works)
    calls, moved = sum(work.calls for work in works.values()), sum(work.moved for work in works.values())
    share = useful / seconds / PEAKS["bf16"]
    cells = [name, f"{calls:,.0f}", f"{moved / 1e9:,.0f}", f"{1e3 * seconds:,.0f}", f"{2 * pairs / seconds:,.0f}"]
    return f"| {' | '.join(cells)} | {share:.0%} |"


def report(config: str, few: int, more: int, pairs: int) -> List[str]:
    """Return the lines of the report."""
    arrangements = {STOCK: [], **SWITCHES, "all": FAST}
    works: Dict[str, Dict[Any, Work]] = {}
    for name, switches in tqdm(arrangements.items(), desc="tracing", leave=False):
        found = [traced(config, number, switches) for number in (few, more)]
        works[name] = at(pairs, few, more, *found)
    useful = sum(work.flops for work in works[STOCK].values())
    lines = [
        f"{machine()}. {config}.yaml, {pairs} pairs, {useful / 1e12:.1f} TFLOP an update; an H200 on paper: "
        f"{PEAKS['bf16'] / 1e12:.0f} TFLOP/s in bf16, {PEAKS['fp32'] / 1e12:.0f} in fp32, {BANDWIDTH / 1e12:g} TB/s.",
        "",
        "| arrangement | operations | GB moved | ms on paper | segments/s | share of the bf16 peak |",
        "| --- | --- | --- | --- | --- | --- |",
        *(rows_of(name, found, pairs, useful) for name, found in works.items()),
    ]
    for name in (STOCK, "all"):
        lines += ["", f"Where the time of {name!r} goes, on paper:", "", *_longest(works[name])]
    needed = useful / _GOAL / PEAKS["bf16"]
    left = seconds_of(works["all"])
    lines += [
        "",
        f"{_GOAL:.0%} of the peak is an update of {1e3 * needed:.0f} ms; on paper 'all' takes {1e3 * left:.0f}.",
    ]
    return lines


def _longest(works: Dict[Any, Work]) -> List[str]:
    total = seconds_of(works)
    rows = ["| operation | calls | TFLOP | GB | ms | share |", "| --- | --- | --- | --- | --- | --- |"]
    ranked = sorted(works.items(), key=lambda item: -max(item[1].seconds, item[1].calls * START))
    for (name, precision), work in ranked[:_SHOWN]:
        seconds = max(work.seconds, work.calls * START)
        cells = [f"{work.calls:,.0f}", f"{work.flops / 1e12:.2f}", f"{work.moved / 1e9:,.1f}", f"{1e3 * seconds:,.1f}"]
        rows.append(f"| {name} ({precision}) | {' | '.join(cells)} | {seconds / total:.0%} |")
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ecg_fm", help="of configs/pretraining (default ecg_fm)")
    parser.add_argument("--pairs", type=int, nargs=2, default=[2, 4], help="sizes of batches that are traced")
    parser.add_argument("--at", type=int, default=171, help="pairs of the update that is told of (default 171)")
    parser.add_argument("--out", type=Path, help="write the report to this file as well")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    fairseq_signals_ext.register()
    few, more = sorted(args.pairs)
    hand_over(report(args.config, few, more, args.at), args.out)


if __name__ == "__main__":
    main()
