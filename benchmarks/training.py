"""One update of the base model (90.9 M parameters), by fairseq's own trainer, task, criterion and data loader.

    python benchmarks/training.py [--updates 3] [--pairs 8] [--precision fp32 bf16] [--out FILE.md]
    python benchmarks/training.py --compare [--config tiny] [--checkpointing]      (see training_comparison.py)
    python benchmarks/training.py --through-command [--config tiny]                (see training_command.py)

On a GPU where there is one, else on the CPU. Prints, for each precision: segments a second; model TFLOP/s, counted by
torch's FlopCounterMode over forward and backward (matrix products, convolutions and attention; two operations for each
multiplication with addition; nothing for what is recomputed or elementwise); the share of the peak, which is the rate
of a large matrix product of that precision, measured in the same run; the share of the time spent waiting for data;
peak memory; and where the time of an update goes.
"""

import argparse
import contextlib
import gc
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import torch
from _shared import (
    ON_GPU,
    compose_config,
    count_flops,
    hand_over,
    machine,
    measured_peak,
    noise,
    seconds_of,
    synchronise,
    write_shards,
)
from training_command import compare_commands
from training_comparison import compare

import fairseq_signals_ext


class Clock:
    """Sums the time between hooks, by name."""

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self._started: Dict[str, float] = {}

    def start(self, name: str) -> None:
        """Start timing `name`."""
        synchronise()
        self._started[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        """Stop timing `name`."""
        synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._started.pop(name)

    def watch(self, module: torch.nn.Module, name: str) -> None:
        """Time the forward passes of a module."""
        module.register_forward_pre_hook(lambda *_: self.start(name))
        module.register_forward_hook(lambda *_: self.stop(name))

    @contextlib.contextmanager
    def watching(self, owner: Any, method: str, name: str) -> Iterator[None]:
        """Time the calls of a method."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.start(name)
            try:
                return original(*args, **kwargs)
            finally:
                self.stop(name)

        setattr(owner, method, timed)
        try:
            yield
        finally:
            setattr(owner, method, original)


def time_components(trainer: Any, model: Any, samples: List[Any]) -> Dict[str, float]:
    """Return seconds of one update, by component; the host waits for the GPU between components."""
    clock = Clock()
    clock.watch(model.feature_extractor, "convolutions, forward")
    clock.watch(model.encoder.pos_conv, "positional convolution, forward")
    clock.watch(model.encoder, "transformer with positional convolution, forward")
    if model.quantizer is not None:
        clock.watch(model.quantizer, "quantizer, forward")
    clock.watch(trainer.criterion, "model and losses, forward")
    with contextlib.ExitStack() as stack:
        stack.enter_context(clock.watching(model, "sample_negatives", "drawing negatives"))
        stack.enter_context(clock.watching(model, "compute_preds", "similarities"))
        stack.enter_context(clock.watching(trainer.optimizer, "backward", "backward"))
        stack.enter_context(clock.watching(trainer.optimizer, "step", "optimizer"))
        clock.seconds["whole update"] = seconds_of(lambda: trainer.train_step(samples))
    return clock.seconds


def peak_memory() -> float:
    """Return the memory of the GPU or this process in GB."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(pairs: int, updates: int, precision: str, overrides: List[str]) -> List[str]:
    """Return rows of the tables for one precision."""
    from fairseq import tasks
    from fairseq.trainer import Trainer

    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), pairs * (updates + 4), noise())
        config = compose_config(Path(name), pairs, precision, overrides)
        task = tasks.setup_task(config.task)
        model = task.build_model(config.model)
        trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
        batches = trainer.get_train_iterator(epoch=1, load_dataset=True).next_epoch_itr()
        waits, steps = [], []
        flops = count_flops(trainer, [next(batches)])
        trainer.train_step([next(batches)])
        for _ in range(updates):
            start = time.perf_counter()
            samples = [next(batches)]
            waits.append(time.perf_counter() - start)
            steps.append(seconds_of(lambda samples=samples: trainer.train_step(samples)))
        components = time_components(trainer, trainer.model, [next(batches)])
        del batches
        gc.collect()
    step, wait = statistics.median(steps), statistics.median(waits)
    peak, achieved = measured_peak(precision), flops / step / 1e12
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = [
        f"| {precision}, {pairs} pairs, {parameters:,} parameters | |",
        "| --- | --- |",
        f"| segments/s | {2 * pairs / (step + wait):,.1f} |",
        f"| an update | {step:.3f} s (median of {updates}) |",
        f"| GFLOP a segment, forward and backward | {flops / (2 * pairs) / 1e9:.1f} |",
        f"| model TFLOP/s | {achieved:.3f} |",
        f"| share of the peak ({peak:.2f} TFLOP/s, a matrix product) | {100 * achieved / peak:.0f} % |",
        f"| waiting for data | {100 * wait / (step + wait):.1f} % |",
        f"| peak memory | {peak_memory():.2f} GB |",
    ]
    whole = components.pop("whole update")
    return rows + [f"| {part} | {100 * seconds / whole:.1f} % |" for part, seconds in sorted(components.items())]


def parse() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, help="updates to time (default 3; through the command 16, on a GPU 200)")
    parser.add_argument("--pairs", type=int, default=171 if ON_GPU else 8, help="pairs of segments a batch")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="default: fp32, on a GPU also bf16")
    parser.add_argument("--override", nargs="*", default=[], help="more of hydra's, as model.encoder_layers=4")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--compare", action="store_true", help="the stock path, each switch alone, and all of them")
    kinds.add_argument("--through-command", action="store_true", help="fairseq-hydra-train, loader included")
    parser.add_argument(
        "--config", choices=["ecg_fm", "tiny"], default="ecg_fm", help="of these two comparisons (default ecg_fm)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="compare with checkpointed activations, too")
    return parser.parse_args()


def measure_each(options: argparse.Namespace) -> List[str]:
    """Return lines about the stock path, by precision."""
    rows: List[str] = []
    for precision in options.precision or (["fp32", "bf16"] if ON_GPU else ["fp32"]):
        rows += ["", *measure(options.pairs, options.updates or 3, precision, options.override)]
    return rows


def main() -> None:
    """Measure and print; with --out also write."""
    options = parse()
    fairseq_signals_ext.register()
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    if options.compare:
        rows = ["", *compare(options)]
    elif options.through_command:
        rows = ["", *compare_commands(options)]
    else:
        rows = measure_each(options)
    hand_over([f"{machine()}; {device}", *rows], options.out)


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    main()
