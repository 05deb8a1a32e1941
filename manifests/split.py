"""Split a prepared folder: `python manifests/split.py DIR --name S --by patient`; all options with `--help`."""

import sys

from fairseq_signals_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["split", *sys.argv[1:]]))
