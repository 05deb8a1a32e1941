"""`python -m fairseq_signals_ext` is `fairseq-signals-ext`."""

import sys

from fairseq_signals_ext.cli import main

sys.exit(main())
