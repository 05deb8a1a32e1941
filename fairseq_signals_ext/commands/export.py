"""Write a model in another format, for people without fairseq or with ECG-FM's own tools, and verify it.

examples:
  fairseq-signals-ext export run/checkpoints/checkpoint_best.pt --to onnx --out model
  fairseq-signals-ext export mimic_iv_ecg_finetuned.pt --to safetensors --labels ecg-fm
  fairseq-signals-ext export mimic_iv_ecg_finetuned-safetensors --to ecg-fm      # back again, bit by bit

Both the model and its export are run on the same random segments, each by its own runtime; the largest differences are
printed, and above 1e-4 nothing is written. A regression's are in standard deviations of its label.
"""

import argparse
from pathlib import Path

from fairseq_signals_ext.common.values import as_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("checkpoint", type=Path, help="ours or ECG-FM's, or the folder of an export to safetensors")
    parser.add_argument(
        "--to",
        required=True,
        choices=("safetensors", "torchscript", "onnx", "ecg-fm"),
        help="safetensors: parameters and config; torchscript: runs with torch alone; onnx: runs with numpy and "
        "onnxruntime alone; ecg-fm: .pt and .yaml for ECG-FM's own tools",
    )
    parser.add_argument("--out", type=Path, help="folder to make (default beside the checkpoint, such as NAME-onnx)")
    parser.add_argument(
        "--labels",
        help="names of the labels, if the checkpoint does not hold them: a label_def.csv, or ecg-fm for those of "
        "ECG-FM's published classifier",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def run(options: argparse.Namespace) -> int:
    """Export, and say what was written and how close it is."""
    # which imports torch
    from fairseq_signals_ext.inference.export import export

    result = export(options.checkpoint, options.to, options.out, options.labels, options.overwrite)
    for file in result.files:
        print(f"{file}  {as_size(file.stat().st_size)}")
    for name, difference in result.differences.items():
        print(f"largest difference of {name}: {difference:.1e}")
    return 0
