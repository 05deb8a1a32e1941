"""What a model of ECG-FM's size needs to be exported to each format and back: time, memory, and what changes.

    python benchmarks/exporting.py [--layers 12] [--folder FOLDER] [--out FILE.md]

A pretraining model of the base size (90,883,072 parameters) with random weights is written in ECG-FM's format, read,
exported to each format, and from safetensors back to ECG-FM's format. Each step is a process of its own. Memory is the
process's peak (with the pages of files that it maps) above what it had after importing every library, in units of the
weights' size. The difference is the largest one of the embedding to the fairseq model's own; weights are compared bit
by bit.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

from loading import hand_over, machine

FORMATS = ("safetensors", "torchscript", "onnx", "ecg-fm")


class Row(NamedTuple):
    """What one step took; `difference` and `equal` where there is something to compare."""

    step: str
    seconds: float
    memory: int  # bytes
    difference: Optional[float] = None
    equal: Optional[bool] = None


def write(file: Path, layers: int) -> None:
    """A checkpoint of a random model, in ECG-FM's format."""
    import torch
    from omegaconf import OmegaConf

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
    write_ecg_fm(Checkpoint(file, state), file)


def read(file: Path) -> None:
    """Build the network that is used."""
    from fairseq_signals_ext.checkpoints.describing import describe
    from fairseq_signals_ext.checkpoints.reading import read_checkpoint
    from fairseq_signals_ext.inference.network import build_network

    checkpoint = read_checkpoint(file)
    build_network(checkpoint, describe(checkpoint))


def export(source: Path, to: str, out: Path) -> float:
    """Export and verify; the largest difference."""
    from fairseq_signals_ext.exporting.export import export as run

    return max(run(source, to, out).differences.values())


def fingerprints(file: Path) -> Any:
    """Of all parameters of a checkpoint or of an export to safetensors."""
    from fairseq_signals_ext.checkpoints.parameter_names import to_ecg_fm_names
    from fairseq_signals_ext.checkpoints.reading import read_checkpoint
    from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors
    from fairseq_signals_ext.exporting import verifying

    checkpoint = read_safetensors(file) if file.is_dir() else read_checkpoint(file)
    return verifying.fingerprints(to_ecg_fm_names(checkpoint.parameters))


def apart(step: Callable[..., Any], *args: Any) -> Any:
    """What a step returns, how many seconds it takes and how many bytes, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (step, *args))


def _measured(step: Callable[..., Any], *args: Any) -> Any:
    logging.basicConfig(level=logging.WARNING)
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch.onnx._internal.exporter._core  # noqa: F401

    import fairseq_signals_ext.exporting.export
    import fairseq_signals_ext.models.ecg_classifier  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = step(*args)
    seconds = time.perf_counter() - start
    return result, seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure(folder: Path, layers: int) -> List[Row]:
    """All steps."""
    file = folder / "base.pt"
    rows = [Row("write a random model in ECG-FM's format", *apart(write, file, layers)[1:])]
    rows.append(Row("read it", *apart(read, file)[1:]))
    original, _, _ = apart(fingerprints, file)
    sources = {to: file for to in FORMATS}
    outs = {to: folder / f"base-{to}" for to in FORMATS}
    for to in FORMATS:
        difference, *cost = apart(export, sources[to], to, outs[to])
        kept = {"safetensors": outs[to], "ecg-fm": outs[to] / "base.pt"}.get(to)
        equal = apart(fingerprints, kept)[0] == original if kept else None
        rows.append(Row(f"export to {to}", *cost, difference, equal))
    back = folder / "back"
    difference, *cost = apart(export, outs["safetensors"], "ecg-fm", back)
    equal = apart(fingerprints, back / "base.pt")[0] == original
    return [*rows, Row("from safetensors back to ecg-fm", *cost, difference, equal)]


def report(rows: List[Row], size: int) -> List[str]:
    """Lines of the table."""
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
        size = (Path(folder) / "base-safetensors" / "model.safetensors").stat().st_size
    hand_over(report(rows, size), options.out)


if __name__ == "__main__":
    main()
