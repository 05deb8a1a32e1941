"""The comparison of `training.py --compare`: the stock path, each switch alone and all together, in turn.

All are trainers of one process, start from the same weights and make the same updates on the same batches, which lie
in memory: the loader's part is measured by `--through-command`. No layer is dropped, so that all updates are the same
work. In each round each makes one update, so that a drift of the machine hits all.

The share of the peak takes for all the operations of the stock path, and is of the rate of a large matrix product in
the arrangement's precision. Synchronisations are operations for which the host waits until the device has finished: in
model, losses and backward pass, and in the whole update of fairseq's trainer. Compiled code runs uncompiled when they
are counted, but not when CUDA counts its own. Memory is that of weights, optimizer and one update, as torch's allocator
gave it out; on a CPU, what libraries take for themselves is not in it. The stock path comes twice: what its second
ratio differs from 1 is not due to a switch. Losses differ where random numbers do: compiled
code has its own for dropout.
"""

import argparse
import contextlib
import gc
import logging
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Sequence
from unittest import mock

import numpy as np
import torch
from _shared import (
    FAST,
    ON_GPU,
    STOCK,
    SWITCHES,
    compose_config,
    count_flops,
    measured_peak,
    noise,
    seconds_of,
    write_shards,
)
from host_syncs import HostSyncs, warned_syncs
from tqdm import tqdm

AGAIN, ALL = "stock again", "all switches"
SAME_WORK = "++model.encoder_layerdrop=0"
# of the stock path, as `tiny` has it by default
NOT_FUSED = "++model.fused_contrast=false"
WARM_UP = 4  # updates before those that are timed: what is new is compiled in the first three
PAPER_SEGMENTS = 240 * 1_405_625  # of the paper's run
HEAD = (
    "arrangement",
    "segments/s",
    "ratio to stock [range]",
    "share of peak",
    "host syncs, model / update",
    "peak memory, GB",
    "compiling, s",
    "last loss",
    "paper's run, h",
)


@dataclass
class Measured:
    """Measurements of an arrangement.

    Attributes:
        precision: fp32 or bf16, of its matrix products.
        seconds: of each timed update; all arrangements made the same update in the same round.
        warm_up: seconds of the updates before.
        syncs: operations for which the host waits, in model, losses and backward pass, and in the whole update.
        memory: peak in GB, as if it were alone.
        loss: bits, of the last update.
    """

    precision: str
    seconds: List[float] = field(default_factory=list)
    warm_up: List[float] = field(default_factory=list)
    syncs: str = ""
    memory: float = 0.0
    loss: float = 0.0

    @property
    def compiling(self) -> float:
        """Seconds that the first two updates took longer than others."""
        return sum(self.warm_up[:2]) - 2 * statistics.median(self.seconds)


def arrangements(checkpointing: bool) -> Dict[str, List[str]]:
    """Overrides by name; that of common.bf16, today's way to bf16, needs a GPU."""
    found: Dict[str, List[str]] = {STOCK: [], AGAIN: [], **SWITCHES}
    if ON_GPU:
        found["common.bf16"] = ["common.bf16=true"]
    if checkpointing:
        found["checkpoint_activations"] = ["++model.checkpoint_activations=true"]
    return {**found, ALL: FAST}


class Arrangement:
    """A separate trainer; all start from the same weights."""

    def __init__(self, config: Any):
        from fairseq import tasks, utils
        from fairseq.trainer import Trainer

        utils.set_torch_seed(config.common.seed)
        task = tasks.setup_task(config.task)
        model = task.build_model(config.model)
        self.trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
        in_bf16 = config.common.bf16 or config.model.bf16_autocast
        self.measured = Measured("bf16" if in_bf16 else "fp32")
        self.operations = 0.0
        self.parameters = sum(parameter.numel() for parameter in model.parameters())

    def update(self, samples: Any) -> float:
        """Seconds of one update; gradients are let go, as the others need the memory."""
        outputs: List[Dict[str, Any]] = []
        seconds = seconds_of(lambda: outputs.append(self.trainer.train_step([samples])))
        self.trainer.zero_grad()
        self.measured.loss = float(outputs[0]["loss"])
        return seconds

    def warm_up(self, batches: Sequence[Any]) -> None:
        """The first `WARM_UP` updates; memory and synchronisations are those of the last two."""
        self.measured.warm_up = [seconds_of(lambda: self.trainer.begin_epoch(1)) + self.update(batches[0])]
        self.measured.warm_up.append(self.update(batches[1]))
        rise = rise_of_memory(lambda: self.update(batches[2]))
        self.measured.memory = (_bytes_of_state(self.trainer) + rise) / 1e9
        self.measured.syncs = self._count_syncs(batches[3])
        if ON_GPU:
            self.measured.syncs += f" (CUDA: {self._count_warned(batches[3])})"

    def _count_syncs(self, samples: Any) -> str:
        inside, whole = HostSyncs(), HostSyncs()
        with whole, _averages_stay_on_the_device(), self._around_train_step(inside):
            self.operations = count_flops(self.trainer, [samples])
        self.trainer.zero_grad()
        return f"{inside.total} / {whole.total}"

    def _count_warned(self, samples: Any) -> str:
        with warned_syncs() as warned:
            inside = _Grown(warned)
            with self._around_train_step(inside):
                self.trainer.train_step([samples])
        self.trainer.zero_grad()
        return f"{inside.number} / {len(warned)}"

    def _around_train_step(self, context: ContextManager[Any]) -> ContextManager[Any]:
        """While entered, `context` is entered for model, losses and backward pass."""
        train_step = self.trainer.task.train_step

        def inside(*args: Any, **kwargs: Any) -> Any:
            with context:
                return train_step(*args, **kwargs)

        return mock.patch.object(self.trainer.task, "train_step", inside)


class _Grown:
    """A context that counts the items added to a list."""

    def __init__(self, watched: List[Any]):
        self._watched = watched
        self.number = 0

    def __enter__(self) -> None:
        self.number -= len(self._watched)

    def __exit__(self, *_: Any) -> None:
        self.number += len(self._watched)


def _averages_stay_on_the_device() -> ContextManager[Any]:
    """What is logged is read at once on a CPU, where nothing waits for it, but on a GPU only where it is displayed."""
    from fairseq_signals_ext.criterions.ranks import AverageMeter

    if ON_GPU:
        return contextlib.nullcontext()
    return mock.patch.object(AverageMeter, "smoothed_value", None)


def rise_of_memory(function: Callable[[], Any]) -> float:
    """Bytes that a call needs at most, besides those that were allocated before."""
    if ON_GPU:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(changes).max()))


def _bytes_of_state(trainer: Any) -> int:
    """Of weights, and of what the optimizer keeps from one update to the next."""
    optimizer = trainer.optimizer.optimizer
    kept: List[Any] = [*trainer.model.parameters(), *trainer.model.buffers()]
    for group in optimizer.param_groups:
        kept += [*group["params"], *(parameter.grad for parameter in group["params"])]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    storages = [value.untyped_storage() for value in kept if torch.is_tensor(value)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def load_batches(trainer: Any) -> List[Any]:
    """Return all batches of the first epoch, as the loader makes them."""
    iterator = trainer.get_train_iterator(epoch=1, load_dataset=True)
    batches = list(iterator.next_epoch_itr())
    gc.collect()  # ends the loader's worker
    return batches


def run(name: str, pairs: int, rounds: int, overrides: List[str], checkpointing: bool) -> Dict[str, Arrangement]:
    """Measure all arrangements, each with `rounds` timed updates."""
    built: Dict[str, Arrangement] = {}
    batches: List[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), pairs * (WARM_UP + rounds), noise())
        for title, switches in tqdm(arrangements(checkpointing).items(), desc="warming up", leave=False):
            config = compose_config(Path(folder), pairs, "fp32", [SAME_WORK, NOT_FUSED, *overrides, *switches], name)
            built[title] = Arrangement(config)
            batches = batches or load_batches(built[title].trainer)
            built[title].warm_up(batches)
    for batch in tqdm(batches[WARM_UP:], desc="measuring", unit="round", leave=False):
        for arrangement in built.values():
            arrangement.measured.seconds.append(arrangement.update(batch))
    return built


def ratio_to(stock: Sequence[float], seconds: Sequence[float]) -> str:
    """How many times as fast as the stock path: by medians, with the least and the largest of a round."""
    ratios = [before / after for before, after in zip(stock, seconds)]
    ratio = statistics.median(stock) / statistics.median(seconds)
    return f"{ratio:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def table(
    measured: Dict[str, Measured], segments: int, operations: float, peaks: Dict[str, float], paper: bool
) -> List[str]:
    """Return rows of markdown.

    Args:
        measured: by the arrangement's name, `STOCK` among them.
        segments: of a batch.
        operations: of an update of the stock path, also taken for the others, whose work is the same.
        peaks: TFLOP/s by precision.
        paper: with the hours of the paper's run, which is of the base model.
    """
    rows = [list(HEAD), ["---"] * len(HEAD)]
    for name, found in measured.items():
        step = statistics.median(found.seconds)
        cells = [
            name,
            f"{segments / step:,.2f}",
            ratio_to(measured[STOCK].seconds, found.seconds),
            f"{100 * operations / step / 1e12 / peaks[found.precision]:.0f} % of {found.precision}",
            found.syncs,
            f"{found.memory:.2f}",
            f"{found.compiling:.0f}",
            f"{found.loss:.3f}",
            f"{PAPER_SEGMENTS * step / segments / 3600:,.0f}",
        ]
        rows.append(cells)
    return [f"| {' | '.join(row if paper else row[:-1])} |" for row in rows]


def compare(options: argparse.Namespace) -> List[str]:
    """Return the lines of the report."""
    rounds, pairs = options.updates or 3, options.pairs
    logging.disable(logging.INFO)
    built = run(options.config, pairs, rounds, options.override, options.checkpointing)
    measured = {title: arrangement.measured for title, arrangement in built.items()}
    stock = built[STOCK]
    peaks = {precision: measured_peak(precision) for precision in ("fp32", "bf16")}
    config = ", ".join([f"{options.config}.yaml", *options.override])
    peaks_text = ", ".join(f"{precision} {peak:.2f}" for precision, peak in peaks.items())
    return [
        f"{config}: {stock.parameters:,} parameters, {pairs} pairs a batch, {rounds} rounds; "
        f"{stock.operations / (2 * pairs) / 1e9:.2f} GFLOP a segment; measured peak in TFLOP/s: {peaks_text}.",
        "",
        *table(measured, 2 * pairs, stock.operations, peaks, paper=options.config == "ecg_fm"),
    ]
