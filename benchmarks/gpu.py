"""All that is to be measured on a GPU, in one go: unattended, within 40 minutes, with results after each step.

    python benchmarks/gpu.py [--out DIR] [--golden DIR] [--minutes 40] [--only STEP ...]
    python benchmarks/gpu.py --reduced                (the same on a CPU, at small sizes: does it run to its end?)

Each step writes DIR/NN-STEP.md, also when it fails or takes too long: then with the end of what it printed. A step that
is done is left out, so that the same command continues. The first steps matter most:

    golden      reference checkpoints on the GPU against the CPU, in fp32 and bf16 (with --golden, a folder of them)
    switches    one update: the stock path, each switch that trains faster, all of them, at 171 pairs
    command     stock and fast through fairseq-hydra-train, with shards on disk and the loader
    waits       one update of the fast path in which CUDA raises an error where the host waits
    profile     the 20 kernels that take longest, gaps between kernels, time of the host; stock and fast
    memory      peak of the fast path at 171, 342 and 684 pairs
    inference   predict in bf16, with 1, 4 and 12 processes that read
    resume      whether a training that is interrupted ends with the same bits

On a machine without internet: `pip download -d wheels -r requirements` where there is one, then
`pip install --no-index --find-links wheels ...`; ours are those of constraints.txt.
"""

import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from _shared import FAST, ON_GPU, STOCK, compose_config, hand_over, machine, noise, write_shards
from training_comparison import Arrangement, load_batches

import fairseq_signals_ext
from fairseq_signals_ext.analysis.fine_tuning import as_override, train_command

HERE = Path(__file__).resolve().parent
_SHOWN, _TAIL = 20, 3000
_FINISHED = "step: done"


def script(name: str, *arguments: Any) -> List[str]:
    """Return the output of one of our scripts."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: exit status {done.returncode}\n{done.stderr[-_TAIL:]}")
    return done.stdout.splitlines()


def golden(args: argparse.Namespace) -> List[str]:
    """Return the largest differences of outputs between GPU and CPU."""
    import numpy as np

    if args.golden is None:
        return ["No folder was given with --golden."]
    recording = np.random.default_rng(0).normal(size=(12, 5000))
    device = "cuda" if ON_GPU else "cpu"
    rows = ["| checkpoint | fp32 | bf16 |", "| --- | --- | --- |"]
    for path in sorted(args.golden.glob("*.pt")):
        expected = fairseq_signals_ext.load(path).embed(recording, 500)
        found = [fairseq_signals_ext.load(path, device=device, bf16=bf16) for bf16 in (False, True)]
        largest = [float(np.abs(model.embed(recording, 500) - expected).max()) for model in found]
        rows.append(f"| {path.name} | {largest[0]:.1e} | {largest[1]:.1e} |")
    return rows


def switches(args: argparse.Namespace) -> List[str]:
    """See `training_comparison.py`."""
    return script("training.py", "--compare", *_sizes(args, updates=3 if args.reduced else 10))


def command(args: argparse.Namespace) -> List[str]:
    """See `training_command.py`."""
    return script("training.py", "--through-command", *_sizes(args, updates=8 if args.reduced else 200))


def _sizes(args: argparse.Namespace, updates: int) -> List[str]:
    return ["--config", _config(args), "--pairs", str(_pairs(args)), "--updates", str(updates)]


def _config(args: argparse.Namespace) -> str:
    return "tiny" if args.reduced else "ecg_fm"


def _pairs(args: argparse.Namespace) -> int:
    return 4 if args.reduced else 171


@contextlib.contextmanager
def arrangement(args: argparse.Namespace, overrides: List[str], pairs: int, updates: int) -> Any:
    """Return a trainer after one update, and further batches."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), pairs * (updates + 1), noise())
        built = Arrangement(compose_config(Path(folder), pairs, "fp32", overrides, _config(args)))
        first, *others = load_batches(built.trainer)
        built.trainer.begin_epoch(1)
        built.update(first)
        yield built, others


def waits(args: argparse.Namespace) -> List[str]:
    """Check whether the host waits within an update of the fast path."""
    with arrangement(args, FAST, _pairs(args), 4) as (built, batches):
        for batch in batches[:-1]:
            built.update(batch)
        if not ON_GPU:
            return ["Only CUDA can tell."]
        torch.cuda.set_sync_debug_mode("error")
        try:
            built.trainer.train_step([batches[-1]])
        except RuntimeError as error:
            return [f"The host waits: {error}"]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return ["The host does not wait."]


def profile(args: argparse.Namespace) -> List[str]:
    """Profile kernels, gaps between them, and the host's time."""
    lines: List[str] = []
    for name, overrides in ((STOCK, []), ("fast", FAST)):
        with arrangement(args, overrides, _pairs(args), 5) as (built, batches):
            for batch in batches[:-1]:
                built.update(batch)
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if ON_GPU else []
            with torch.profiler.profile(activities=kinds) as profiler:
                seconds = built.update(batches[-1])
        lines += [f"{name}: an update of {1e3 * seconds:.1f} ms", "", *_kernels(profiler), ""]
    return lines


def _kernels(profiler: Any) -> List[str]:
    of_gpu = "device" if ON_GPU else "cpu"
    averages = [(getattr(one, f"self_{of_gpu}_time_total") / 1e3, one) for one in profiler.key_averages()]
    ranked = sorted(averages, key=lambda pair: -pair[0])
    rows = ["| kernel | calls | ms |", "| --- | --- | --- |"]
    rows += [f"| {one.key[:80].replace('|', '/')} | {one.count} | {ms:.2f} |" for ms, one in ranked[:_SHOWN]]
    busy = sum(ms for ms, _ in ranked)
    host = sum(one.self_cpu_time_total for _, one in ranked) / 1e3
    ends = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in profiler.profiler.kineto_results.events()]
    whole = (max(end for _, end in ends) - min(start for start, _ in ends)) / 1e6
    return [*rows, "", f"kernels {busy:.1f} ms, nothing runs for {max(0.0, whole - busy):.1f} ms; host {host:.1f} ms"]


def memory(args: argparse.Namespace) -> List[str]:
    """Measure peak memory and rate for several batch sizes."""
    rows = ["| pairs | peak GB | segments/s |", "| --- | --- | --- |"]
    for times in (1, 2, 4):
        pairs = _pairs(args) * times
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        with arrangement(args, FAST, pairs, 4) as (built, batches):
            seconds = min(built.update(batch) for batch in batches)
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if ON_GPU else "-"
        rows.append(f"| {pairs} | {peak} | {2 * pairs / seconds:,.0f} |")
    return rows


def inference(args: argparse.Namespace) -> List[str]:
    """See `inference.py`."""
    size = ["--models", "tiny", "--seconds", "1", "--rounds", "1"] if args.reduced else ["--models", "base"]
    device = ["--device", "cuda"] if ON_GPU else []
    lines: List[str] = []
    for jobs in (1,) if args.reduced else (1, 4, 12):
        lines += [f"{jobs} processes read:", "", *script("inference.py", *size, *device, "--bf16", "--jobs", jobs), ""]
    return lines


def resume(args: argparse.Namespace) -> List[str]:
    """Check whether four updates equal two and two, with deterministic algorithms."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_shards(folder, 16, noise())
        (folder / "valid.tsv").write_text((folder / "train.tsv").read_text(encoding="utf-8"), encoding="utf-8")
        whole = _trained(folder, folder / "whole", [4])
        interrupted = _trained(folder, folder / "interrupted", [2, 4])
    largest = {key: float((whole[key].double() - interrupted[key].double()).abs().max()) for key in whole}
    different = {key: value for key, value in largest.items() if value}
    if not different:
        return ["All parameters have the same bits."]
    key = max(different, key=lambda one: different[one])
    return [f"{len(different)} of {len(largest)} parameters differ, most {key}: {different[key]:.1e}."]


def _trained(data: Path, out: Path, updates: List[int]) -> Dict[str, torch.Tensor]:
    """Return parameters after trainings that continue each other, up to these numbers of updates."""
    config = fairseq_signals_ext.configs_dir("pretraining")
    for number in updates:
        overrides = [
            as_override("task.data", data),
            "dataset.batch_size=4",
            "++dataset.disable_validation=true",
            "++distributed_training.distributed_world_size=1",
            f"++optimization.max_update={number}",
            f"++common.cpu={str(not ON_GPU).lower()}",
            "checkpoint.save_interval_updates=0",
        ]
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        ran = train_command(Path(config), "tiny", out, overrides)
        subprocess.run(ran, check=True, capture_output=True, env=environment)
    state = torch.load(out / "checkpoints" / "checkpoint_last.pt", weights_only=True, map_location="cpu")
    return dict(state["model"])


STEPS: Dict[str, Callable[[argparse.Namespace], List[str]]] = {
    "golden": golden,
    "switches": switches,
    "command": command,
    "waits": waits,
    "profile": profile,
    "memory": memory,
    "inference": inference,
    "resume": resume,
}


def take(number: int, name: str, args: argparse.Namespace, seconds: float) -> None:
    """Do a step in a separate process with a time limit."""
    path = args.out / f"{number:02d}-{name}.md"
    if path.is_file() and _FINISHED in path.read_text(encoding="utf-8"):
        return
    ours = [sys.executable, str(Path(__file__).resolve()), "--step", name]
    given = [*(["--reduced"] if args.reduced else []), *(["--golden", str(args.golden)] if args.golden else [])]
    start = time.monotonic()
    try:
        done = subprocess.run([*ours, *given], capture_output=True, text=True, check=False, timeout=seconds, cwd=HERE)
        text, problem = done.stdout, f"exit status {done.returncode}\n{done.stderr[-_TAIL:]}" if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        text, problem = said, f"ended after {seconds:.0f} s, as the time was over"
    end = problem or f"{_FINISHED} in {time.monotonic() - start:.0f} s"
    with contextlib.redirect_stdout(io.StringIO()):
        hand_over([f"# {name}", "", text.rstrip(), "", end], path)
    print(f"{path}: {end.splitlines()[0]}", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder (default gpu-results)")
    parser.add_argument("--golden", type=Path, help="folder of reference checkpoints")
    parser.add_argument("--minutes", type=float, default=40, help="for all steps (default 40)")
    parser.add_argument("--only", nargs="+", choices=STEPS, help="these steps")
    parser.add_argument("--reduced", action="store_true", help="small sizes")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    if args.step:
        fairseq_signals_ext.register()
        hand_over([machine(), "", *STEPS[args.step](args)], None)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    for number, name in enumerate(STEPS, 1):
        left = end - time.monotonic()
        if (not args.only or name in args.only) and left > 0:
            take(number, name, args, left)


if __name__ == "__main__":
    main()
