"""Every reader against damaged recordings: one line or a sound recording, within 10 s and 2 GB.

`FUZZ_SECONDS` is the time per reader of the long version (`FUZZ_SECONDS=600 pytest -m slow tests/readers/test_fuzz.py
-k wfdb -s`); inputs that fail are written to `FUZZ_FOLDER`. `python tests/readers/fuzzing.py --help` does the same.
"""

import os
from pathlib import Path

import pytest
from fuzz_seeds import READERS, seeds_of
from fuzzing import fuzz, heading, input_of, read_input

SMOKE = 12  # inputs per reader in the ordinary suite
SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))


@pytest.mark.parametrize("reader", READERS)
def test_damaged_recordings_give_one_line_or_a_valid_recording(reader, tmp_path):
    seeds = seeds_of(reader)
    for number in range(SMOKE):
        seed, files = input_of(seeds, number)
        assert read_input(tmp_path, seed, files) in ("read", "refused"), f"{reader} {number}"


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_fuzz(reader, tmp_path):
    out = Path(os.environ.get("FUZZ_FOLDER", str(tmp_path)))
    outcome = fuzz(reader, SECONDS, out)
    print("", heading(), outcome.row(), sep="\n")
    assert outcome.tried > 0
    assert not outcome.failures, f"inputs in {out}: {outcome.failures}"
