"""Export a model to ONNX, TorchScript, safetensors or ECG-FM's format; verify it.

examples:
  fairseq-signals-ext export run/checkpoints/checkpoint_best.pt --to onnx \\
      --out model
  fairseq-signals-ext export mimic_iv_ecg_finetuned.pt --to safetensors \\
      --labels ecg-fm
  fairseq-signals-ext export mimic_iv_ecg_finetuned-safetensors --to ecg-fm

The last one restores the original bit by bit. The model and its export are run
on the same random segments, each in its own runtime. The largest differences
are printed; above 1e-4 nothing is written. For a regression, they are in
standard deviations of its label.
"""

import argparse
from pathlib import Path

from fairseq_signals_ext.common.values import as_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        type=Path,
        help="checkpoint (of this project or of ECG-FM), or folder of an export to safetensors",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=("safetensors", "torchscript", "onnx", "ecg-fm"),
        help="safetensors: parameters and config; torchscript: needs only torch to run; onnx: needs only numpy and "
        "onnxruntime; ecg-fm: .pt and .yaml for ECG-FM's own tools",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder to create (default: beside CKPT, such as NAME-onnx)"
    )
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="label names, if missing from the checkpoint: DIR/labels/NAME, a label_def.csv, or ecg-fm for those of "
        "ECG-FM's published classifier",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export")


def run(options: argparse.Namespace) -> int:
    """Export, and print the files and the largest differences; returns the exit status."""
    # imported here because it imports torch
    from fairseq_signals_ext.inference.export import export

    result = export(options.checkpoint, options.to, options.out, options.labels, options.overwrite)
    for file in result.files:
        print(f"{file}  {as_size(file.stat().st_size)}")
    for name, difference in result.differences.items():
        print(f"largest difference of {name}: {difference:.1e}")
    return 0
