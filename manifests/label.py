"""Label recordings: `python manifests/label.py DIR --name L --codes cinc2021`; all options with `--help`."""

import sys

from fairseq_signals_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
