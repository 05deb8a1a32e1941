"""The command `serve`, with readers that go wrong."""

import functools
import sys

import failing_readers

from fairseq_signals_ext.cli import main
from fairseq_signals_ext.serving import app

if __name__ == "__main__":
    app.make_app = functools.partial(app.make_app, read_short=failing_readers.read_short, read=failing_readers.read)
    main(["serve", *sys.argv[1:]])
