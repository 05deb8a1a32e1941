"""Convert configs of ECG-FM's framework to stock fairseq.

examples:
  fairseq-signals-ext config convert mimic_iv_ecg_physionet_pretrained.yaml \\
      --out configs/pretrain.yaml
  fairseq-signals-ext config convert mimic_iv_ecg_finetuned.pt \\
      --out configs/finetune.yaml    # the config in the checkpoint
  fairseq-hydra-train --config-dir configs --config-name pretrain \\
      task.data=data/splits/main \\
      common.user_dir=$(fairseq-signals-ext user-dir)

All keys that are renamed or dropped are listed on stdout with the reason.
Without --out, the new config is printed to stdout and the list to stderr.
"""

import argparse
import sys
from pathlib import Path
from typing import Optional

from fairseq_signals_ext.commands._entry import Parser
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic, check_free


def add_arguments(parser: Parser) -> None:
    """Arguments of the command."""
    kinds = parser.add_subparsers(dest="what", metavar="convert", required=True)
    parser.unnamed = ("convert", ("convert", "-h", "--help"))
    convert = kinds.add_parser(
        "convert",
        help="convert a config of ECG-FM's framework for fairseq-hydra-train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("config", metavar="CONFIG", type=Path, help="YAML file of ECG-FM's framework, or a checkpoint")
    convert.add_argument("--out", metavar="FILE", type=Path, help="YAML file for the new config (default: print it)")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(options: argparse.Namespace) -> int:
    """Convert a config, write it and list the changes.

    Raises:
        UserError: see `read_config` and `convert_config`; or the file cannot be written.
    """
    # imported here, so that --help is fast
    from fairseq_signals_ext.checkpoints.config_conversion import convert_config, list_changes, to_yaml
    from fairseq_signals_ext.checkpoints.config_files import read_config

    _check_out(options.out, options.overwrite)
    converted = convert_config(read_config(options.config), str(options.config))
    text, changes = to_yaml(converted.sections, options.config.name), list_changes(converted.changes)
    if options.out is None:
        print(text, end="")
        print(changes, file=sys.stderr)
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(changes)
    print(options.out)
    return 0


def _check_out(out: Optional[Path], overwrite: bool) -> None:
    if out is None:
        return
    if out.suffix != ".yaml":
        raise UserError(f"{out}: hydra finds configs by the ending .yaml; add it")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above}: is a file, not a folder; give another --out")
    check_free(out.parent, [out.name], overwrite)
