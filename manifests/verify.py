"""Verify a prepared folder: `python manifests/verify.py DIR`; all options with `--help`."""

import sys

from fairseq_signals_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
