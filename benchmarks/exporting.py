"""What a model of ECG-FM's size needs to be exported to each format and back: time, memory, and what changes.

    python benchmarks/exporting.py [--layers 12] [--folder FOLDER] [--out FILE.md]

A pretraining model of the base size (90,883,072 parameters) with random weights is written in ECG-FM's format, read,
fine-tuned for two updates by fairseq-hydra-train, and the classifier is exported to each format, and from safetensors
to ECG-FM's format. Each step is a process of its own. Memory is the process's peak (with the pages of files that it
maps) above what a process has after importing every library, in units of the weights' size; a training also holds
gradients and Adam's two moments. The difference is the largest one of logits or embedding to the fairseq model's own;
weights are compared bit by bit with those of the checkpoint.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import numpy as np
from _shared import hand_over, machine, noise, write_shards

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.common import processes

CONFIGS = Path(configs_dir("fine_tuning"))
FORMATS = ("safetensors", "torchscript", "onnx", "ecg-fm")


class Row(NamedTuple):
    """Cost of one step; `difference` and `equal` if there is something to compare."""

    step: str
    seconds: float
    memory: int  # bytes
    difference: Optional[float] = None
    equal: Optional[bool] = None


def write(file: Path, layers: int) -> None:
    """Write a checkpoint of a random model in ECG-FM's format."""
    import torch
    from omegaconf import OmegaConf

    from fairseq_signals_ext.checkpoints.describing import describe
    from fairseq_signals_ext.checkpoints.ecg_fm import write_ecg_fm
    from fairseq_signals_ext.checkpoints.reading import Checkpoint
    from fairseq_signals_ext.models.ecg_wav2vec2 import Wav2Vec2CmscConfig, Wav2Vec2CmscModel

    torch.manual_seed(0)
    config = Wav2Vec2CmscConfig(encoder_layers=layers)
    model = {**OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True), "_name": "wav2vec2_cmsc"}
    sections = {
        "model": model,
        "task": {"_name": "ecg_pretraining", "sample_rate": 500, "max_sample_size": 2500},
        "criterion": {"_name": "wav2vec2_with_cmsc"},
    }
    state = {"cfg": sections, "model": Wav2Vec2CmscModel(config).state_dict()}
    checkpoint = Checkpoint(file, state)
    write_ecg_fm(checkpoint, describe(checkpoint), file)


def read(file: Path) -> None:
    """Build the network for predictions."""
    from fairseq_signals_ext.checkpoints.describing import describe
    from fairseq_signals_ext.checkpoints.reading import read_checkpoint
    from fairseq_signals_ext.inference.network import build_network

    checkpoint = read_checkpoint(file)
    build_network(checkpoint, describe(checkpoint))


def fine_tune(pretrained: Path, folder: Path) -> Path:
    """Train two updates of all parameters by fairseq's own command, on noise; return the checkpoint."""
    import fairseq_signals_ext

    data = folder / "data"
    (data / "labels").mkdir(parents=True)
    write_shards(data, 4, noise())
    np.save(data / "labels" / "y.npy", np.arange(4 * 17).reshape(4, 17) % 3 % 2)
    command = [Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir", CONFIGS]
    command += ["--config-name", "ecg_interpretation", f"task.data={data}", f"task.label_file={data / 'labels'}"]
    command += [f"model.model_path={pretrained}", "++model.feature_grad_mult=1", "criterion.pos_weight=null"]
    command += ["dataset.batch_size=2", "dataset.num_workers=0", "++dataset.disable_validation=true"]
    command += ["++optimization.max_update=2", "++checkpoint.no_save_optimizer_state=true", "++common.cpu=true"]
    command += [f"common.user_dir={fairseq_signals_ext.user_dir()}", f"hydra.run.dir={folder / 'run'}"]
    command.append(f"checkpoint.save_dir={folder / 'run'}")
    processes.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "run" / "checkpoint_last.pt"


def export(source: Path, to: str, out: Path) -> float:
    """Export and verify; return the largest difference."""
    from fairseq_signals_ext.inference.export import export as run

    return max(run(source, to, out).differences.values())


def fingerprints(file: Path) -> Any:
    """Of all parameters of a checkpoint or of an export to safetensors."""
    from fairseq_signals_ext.checkpoints.architecture import to_ecg_fm_names
    from fairseq_signals_ext.checkpoints.reading import read_checkpoint
    from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors
    from fairseq_signals_ext.inference import export_check

    checkpoint = read_safetensors(file) if file.is_dir() else read_checkpoint(file)
    return export_check.fingerprints(to_ecg_fm_names(checkpoint.parameters, "encoder."))


def apart(step: Callable[..., Any], *args: Any) -> Any:
    """Run a step in a new process; return its result, seconds and bytes."""
    with multiprocessing.get_context("spawn").Pool(1, processes.end_with, (os.getpid(),)) as pool:
        return pool.apply(_measured, (step, *args))


def _measured(step: Callable[..., Any], *args: Any) -> Any:
    logging.basicConfig(level=logging.WARNING)
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch.onnx._internal.exporter._core  # noqa: F401

    import fairseq_signals_ext.inference.export
    import fairseq_signals_ext.models.ecg_classifier  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = step(*args)
    seconds = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return result, seconds, 1024 * (peak - before)


def measure(folder: Path, layers: int) -> List[Row]:
    """Run all steps."""
    pretrained = folder / "base.pt"
    rows = [Row("write a random model in ECG-FM's format", *apart(write, pretrained, layers)[1:])]
    rows.append(Row("read it", *apart(read, pretrained)[1:]))
    file, *cost = apart(fine_tune, pretrained, folder)
    rows.append(Row("fine-tune it, two updates", *cost))
    original, _, _ = apart(fingerprints, file)
    outs = {to: folder / f"tuned-{to}" for to in FORMATS}
    for to in FORMATS:
        difference, *cost = apart(export, file, to, outs[to])
        kept = {"safetensors": outs[to], "ecg-fm": outs[to] / "checkpoint_last.pt"}.get(to)
        equal = apart(fingerprints, kept)[0] == original if kept else None
        rows.append(Row(f"export to {to}", *cost, difference, equal))
    back = folder / "back"
    difference, *cost = apart(export, outs["safetensors"], "ecg-fm", back)
    equal = apart(fingerprints, back / "tuned.pt")[0] == original
    return [*rows, Row("from safetensors back to ecg-fm", *cost, difference, equal)]


def report(rows: List[Row], size: int) -> List[str]:
    """Return the lines of the table."""
    lines = [machine(), "", f"Weights: {size / 1e6:.0f} MB.", ""]
    lines.append("| step | seconds | peak memory / weights | largest difference | weights |")
    lines.append("| --- | --- | --- | --- | --- |")
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        equal = {None: "", True: "bit-equal", False: "differ"}[row.equal]
        lines.append(f"| {row.step} | {row.seconds:.1f} | {row.memory / size:.2f} | {difference} | {equal} |")
    return lines


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of the transformer (default 12, the base size)")
    parser.add_argument("--folder", type=Path, help="for the models, of which five copies are made (default temporary)")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(Path(folder), options.layers)
        size = (Path(folder) / "tuned-safetensors" / "model.safetensors").stat().st_size
    hand_over(report(rows, size), options.out)


if __name__ == "__main__":
    main()
