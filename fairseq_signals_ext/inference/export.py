"""Export a checkpoint to another format and verify it; the folder appears complete or not at all."""

import csv
import dataclasses
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional, Tuple

from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.description import (
    CONFIG_FILE,
    ModelDescription,
    read_description,
    write_description,
)
from fairseq_signals_ext.checkpoints.ecg_fm import checkpoint_of, to_ecg_fm, write_ecg_fm
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_folder, check_text, only_one
from fairseq_signals_ext.data.label_table import DEFINITION_FILE
from fairseq_signals_ext.inference import export_check, export_formats
from fairseq_signals_ext.inference.network import EcgNetwork, build_model, build_network


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        folder: of the export.
        files: in it.
        differences: largest absolute difference from the fairseq model's outputs, by the output's name.
    """

    folder: Path
    files: Tuple[Path, ...]
    differences: Dict[str, float]


class _Job(NamedTuple):
    """Input of an export, and the temporary folder that it is written to."""

    source: Path
    name: str  # of the model
    description: ModelDescription
    folder: Path


def export(
    checkpoint: Path, to: str, out: Optional[Path] = None, labels: Optional[str] = None, overwrite: bool = False
) -> ExportResult:
    """Write a model in another format, run it with the runtime of that format, and compare the outputs.

    Memory never holds more than about two copies of the weights.

    Args:
        checkpoint: ours or ECG-FM's, or the folder of an export to safetensors or ecg-fm.
        to: one of `FORMATS`.
        out: folder for the export; default: beside the checkpoint, such as `checkpoint_best-onnx`.
        labels: names of the labels, see `describe`.
        overwrite: replace an export to the same format.

    Raises:
        UserError: the checkpoint cannot be used, `out` has content or is in the folder that is exported, the model's
            outputs are not finite, a parameter of the export is not bit-equal, or an output differs by more than
            `export_check.TOLERANCE`; then nothing is written.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to!r}: use one of {', '.join(FORMATS)}")
    given, checkpoint = checkpoint, checkpoint_of(checkpoint)
    name = _model_name(checkpoint)
    out = given.parent / f"{name}-{to}" if out is None else out
    check_text(out)
    with only_one(out, beside=True):
        check_replaceable(out, _names(to, name), overwrite)
        _check_apart(given, checkpoint, out)
        description = _described(checkpoint, labels)
        with atomic_folder(out) as folder:
            differences = FORMATS[to](_Job(checkpoint, name, description, folder))
            _write_labels(description, folder)
            names = sorted(file.name for file in folder.iterdir())
    return ExportResult(out, tuple(out / name for name in names), differences)


def check_replaceable(folder: Path, names: Collection[str], overwrite: bool) -> None:
    """Check that a folder can be made or replaced; a folder with other files than an export's is never replaced.

    Args:
        names: files that an export may have.
        overwrite: replace an existing export.

    Raises:
        UserError: it is a file or the current folder, or has content that may not be replaced.
    """
    given, folder = folder, folder.resolve()
    if folder == Path.cwd():
        raise UserError(
            f"{given}: is the current folder, which would be replaced by another; give a new one with --out"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{given}: is a file; give a folder with --out")
    content = sorted(os.listdir(folder)) if folder.is_dir() else []
    if content and not overwrite:
        raise UserError(f"{given}: is not empty; give another folder with --out, or --overwrite")
    others = [name for name in content if name not in names]
    if others:
        raise UserError(f"{given}: has {others[0]!r}, which is not part of this export; give another folder with --out")


def _check_apart(given: Path, checkpoint: Path, out: Path) -> None:
    """Check that the export does not replace its input or change the input's folder."""
    if checkpoint.resolve() in (out.resolve(), *(file.resolve() for file in out.glob("*"))):
        raise UserError(f"{out}: is the input; give another folder with --out")
    if given.is_dir() and given.resolve() in out.resolve().parents:
        raise UserError(f"{out}: is in the folder that is exported; give another folder with --out")


def _model_name(source: Path) -> str:
    """Name for exports: the checkpoint's file name, also if it was exported before."""
    return source.name[: -len("-safetensors")] if source.name.endswith("-safetensors") else source.stem


def _names(to: str, name: str) -> Tuple[str, ...]:
    """Names that the files of an export may have."""
    if to == "ecg-fm":
        return f"{name}.pt", f"{name}.yaml", DEFINITION_FILE
    weights = (export_formats.ONNX_FILE, export_formats.SAFETENSORS_FILE, export_formats.TORCHSCRIPT_FILE)
    return (*weights, f"{export_formats.ONNX_FILE}.data", CONFIG_FILE, DEFINITION_FILE)


def _read(source: Path) -> Checkpoint:
    return read_safetensors(source) if source.is_dir() else read_checkpoint(source)


def _build(source: Path) -> Any:
    """The fairseq model of a checkpoint or export."""
    model = build_model(_read(source))
    gc.collect()  # torch's loading leaves cycles of references, which would keep the file in memory
    return model


def _described(source: Path, labels: Optional[str]) -> ModelDescription:
    """Its description; for an export with the provenance that the export recorded."""
    checkpoint = _read(source)
    description = describe(checkpoint, labels)
    if labels is not None and not description.of_kind.has_labels:
        raise UserError(f"{source}: a pretrained model has no labels; leave --labels out")
    if not source.is_dir():
        return description
    saved, _ = read_description(source)
    return saved if labels is None else dataclasses.replace(description, provenance=saved.provenance)


def _write_labels(description: ModelDescription, folder: Path) -> None:
    """Write a readable table of label names, aggregations and thresholds, if the names are known."""
    if not description.label_names or not description.names_are_known:
        return
    columns = {"name": description.label_names, "aggregation": description.aggregation}
    if description.thresholds is not None:
        columns["threshold"] = tuple(f"{threshold:.6g}" for threshold in description.thresholds)
    with open(folder / DEFINITION_FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))


def _to_safetensors(job: _Job) -> Dict[str, float]:
    path = job.folder / export_formats.SAFETENSORS_FILE
    expected, parameters = _outputs_and_parameters(job)
    export_formats.write_safetensors(parameters, path)
    saved = export_check.fingerprints(parameters)
    del parameters
    checkpoint = _read(job.source)
    training = {"cfg": checkpoint.config, "task_state": checkpoint.task_state}
    write_description(job.description, path.name, job.folder, training)
    return _verify_parameters(lambda: read_safetensors(job.folder), job, expected, saved)


def _to_ecg_fm(job: _Job) -> Dict[str, float]:
    path = job.folder / f"{job.name}.pt"
    expected = _outputs_and_parameters(job)[0]
    write_ecg_fm(_read(job.source), job.description, path)
    saved = export_check.fingerprints(to_ecg_fm(_read(job.source), job.description)["model"])
    return _verify_parameters(lambda: read_checkpoint(path), job, expected, saved)


def _outputs_and_parameters(job: _Job) -> Tuple[export_check.Outputs, Dict[str, Any]]:
    """The model's outputs, and its parameters as in the file; the model itself is freed.

    The file is mapped again each time that it is read: pages that were read count as memory while they are mapped.
    """
    model = _build(job.source)
    expected = export_check.outputs_of_model(model, job.description)
    export_check.check_finite(expected, job.source)
    parameters = export_check.own_parameters(model, _read(job.source))
    del model
    gc.collect()  # a model is a cycle of references
    return expected, parameters


def _verify_parameters(
    read: Callable[[], Checkpoint], job: _Job, expected: export_check.Outputs, saved: Dict[str, str]
) -> Dict[str, float]:
    """Read an export with parameters again, and compare its parameters and outputs."""
    export_check.check_same(export_check.fingerprints(read().parameters), saved)
    found = export_check.outputs_of_network(build_network(read(), job.description), job.description)
    return export_check.differences(found, expected, job.description)


def _to_torchscript(job: _Job) -> Dict[str, float]:
    return _to_runtime(
        job, export_formats.TORCHSCRIPT_FILE, export_formats.write_torchscript, export_check.outputs_of_torchscript
    )


def _to_onnx(job: _Job) -> Dict[str, float]:
    return _to_runtime(job, export_formats.ONNX_FILE, export_formats.write_onnx, export_check.outputs_of_onnx)


def _to_runtime(
    job: _Job,
    weights: str,
    write: Callable[[EcgNetwork, ModelDescription, Path], None],
    run: Callable[[Path, ModelDescription], export_check.Outputs],
) -> Dict[str, float]:
    """Export the computation to a file for another runtime."""
    path = job.folder / weights
    model = _build(job.source)
    expected = export_check.outputs_of_model(model, job.description)
    export_check.check_finite(expected, job.source)
    write(EcgNetwork(model, job.description).requires_grad_(False).eval(), job.description, path)
    del model
    gc.collect()
    write_description(job.description, path.name, job.folder)
    return export_check.differences(run(path, job.description), expected, job.description)


FORMATS: Dict[str, Callable[[_Job], Dict[str, float]]] = {
    "safetensors": _to_safetensors,
    "torchscript": _to_torchscript,
    "onnx": _to_onnx,
    "ecg-fm": _to_ecg_fm,
}
