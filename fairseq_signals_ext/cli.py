"""The console command `fairseq-signals-ext`."""

import argparse
import importlib
import os
import re
import sys
from typing import List, NamedTuple, Optional, Tuple

import fairseq_signals_ext
from fairseq_signals_ext.commands._entry import Parser, run_command
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error, first_line

_EXAMPLES = """examples:
  fairseq-signals-ext prepare wfdb path/to/records --out data
  fairseq-signals-ext verify data
  fairseq-signals-ext split data --name main
  fairseq-hydra-train --config-dir $(fairseq-signals-ext configs pretraining) \\
      --config-name tiny task.data=data/splits/main \\
      common.user_dir=$(fairseq-signals-ext user-dir)
  fairseq-signals-ext label data --name cinc2021 --codes cinc2021
  fairseq-signals-ext label data --name findings --reports
  fairseq-signals-ext label link data --name lvef --events echo.csv \\
      --threshold "<= 40"
  fairseq-signals-ext evaluate run/checkpoints/checkpoint_best.pt \\
      --data data/splits/main --subset test --out evaluation
  fairseq-signals-ext calibrate run/checkpoints/checkpoint_best.pt \\
      --data data/splits/main --subset valid --out calibrated.pt
  fairseq-signals-ext predict run/checkpoints/checkpoint_best.pt ecg.dcm \\
      records/*.hea --out results
  fairseq-signals-ext report run/checkpoints/checkpoint_best.pt ecg.dcm \\
      --out reports
  fairseq-signals-ext curve run --out loss.png
  fairseq-signals-ext inspect run/checkpoints/checkpoint_best.pt
  fairseq-signals-ext export run/checkpoints/checkpoint_best.pt --to onnx \\
      --out model
  fairseq-signals-ext config convert ECGFM.yaml --out ours.yaml
"""


class Command(NamedTuple):
    """A subcommand, whose arguments and work are in commands/NAME.py.

    Attributes:
        summary: one line on it.
        extras: of the installation, without which it does not work.
    """

    summary: str
    extras: Tuple[str, ...]


COMMANDS = {
    "prepare": Command("store the recordings of a source as shards, a table and a manifest", ("formats",)),
    "split": Command("split prepared recordings into training, validation and test sets", ("formats",)),
    "label": Command("label prepared recordings, from codes, a table, reports or events", ("formats",)),
    "verify": Command("check a prepared folder, and draw its contents", ("formats", "report")),
    "evaluate": Command("evaluate fine-tuned models, with intervals and plots", ("formats", "train", "report")),
    "calibrate": Command(
        "calibrate a fine-tuned model: probabilities, decisions with promised errors, and refusal", ("formats", "train")
    ),
    "benchmark": Command("compare checkpoints by probes of their frozen features", ("formats", "train", "report")),
    "predict": Command("predict labels for ECG files in any format", ("formats",)),
    "embed": Command("embed ECGs as vectors, find nearest neighbours, and draw a map", ("formats",)),
    "explain": Command("show where in ECGs a model looked, with pictures", ("formats", "report")),
    "report": Command(
        "write a page on each ECG: the ECG, predictions, and where the model looked", ("formats", "report")
    ),
    "serve": Command(
        "serve a model: a web page to drop ECG files on, and an HTTP API",
        ("formats", "report", "serve"),
    ),
    "curve": Command("draw the loss curve of a training", ("report",)),
    "inspect": Command("show the contents of a checkpoint or an export", ("train",)),
    "export": Command("export to ONNX, TorchScript, safetensors or ECG-FM's format", ("export", "train")),
    "config": Command("convert a config of ECG-FM's framework for fairseq-hydra-train", ("train", "formats")),
}

# a time before another, such as -7d: argparse takes it for an option, unless a space is in it
_BEFORE = re.compile(r"-(\d+\.?\d*|\.\d+)[a-z]+")


def _parser(chosen: Optional[str]) -> Parser:
    parser = Parser(
        prog="fairseq-signals-ext",
        description="ECG-FM on stock fairseq: the commands beside fairseq's own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=fairseq_signals_ext.__version__)
    parser.add_argument("--user-dir", metavar="DIR", help="folder with your own plugins, as in fairseq")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    of_user_dir = "print the folder for fairseq's common.user_dir or --user-dir"
    subparsers.add_parser("user-dir", help=of_user_dir, description=f"{of_user_dir.capitalize()}.")
    of_configs = "print the folder with the configs, for --config-dir of fairseq-hydra-train"
    configs = subparsers.add_parser("configs", help=of_configs, description=f"{of_configs.capitalize()}.")
    kinds = ("pretraining", "fine_tuning", "labels")
    configs.add_argument("kind", nargs="?", choices=kinds, help="one of its subfolders")
    for name, command in COMMANDS.items():
        if name != chosen:  # only the command that runs is imported
            subparsers.add_parser(name, help=command.summary, add_help=False)
            continue
        module = importlib.import_module(f"fairseq_signals_ext.commands.{name}")
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _with_user_dir(arguments: List[str]) -> List[str]:
    """Import the folder in `--user-dir`, wherever it stands, before any command is looked at; gives the others."""
    if not any(argument.partition("=")[0] == "--user-dir" for argument in arguments):
        return arguments
    parser = argparse.ArgumentParser(prog="fairseq-signals-ext", add_help=False, allow_abbrev=False)
    parser.add_argument("--user-dir")
    found, others = parser.parse_known_args(arguments)
    from fairseq_signals_ext.common.requirements import quiet_fairseq

    with quiet_fairseq():
        _import_user_dir(found.user_dir)
    return others


def _import_user_dir(folder: str) -> None:
    """Import a user's own folder as `common.user_dir` of fairseq does.

    Raises:
        UserError: there is no such folder, or it cannot be imported.
    """
    fairseq_signals_ext.register()
    from fairseq.utils import import_user_module

    try:
        import_user_module(argparse.Namespace(user_dir=folder))
    except UserError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"--user-dir {folder}: cannot be imported ({first_line(error)}); correct it") from error


@exits_on_user_error
def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # threads that wait for others must not keep a core busy; OpenMP reads this when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _with_user_dir(arguments)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = _parser(chosen)
    options = parser.parse_args([f" {one}" if _BEFORE.fullmatch(one) else one for one in arguments])
    if options.command is None:
        parser.print_help()
        return 2
    if options.command == "user-dir":
        print(fairseq_signals_ext.user_dir())
        return 0
    if options.command == "configs":
        print(fairseq_signals_ext.configs_dir(options.kind or ""))
        return 0
    return run_command(options.run, options, COMMANDS[options.command].extras)


if __name__ == "__main__":
    sys.exit(main())
