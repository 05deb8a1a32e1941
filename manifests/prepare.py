"""Prepare recordings: `python manifests/prepare.py wfdb SOURCE --out DIR`; all options with `--help`."""

import sys

from fairseq_signals_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
