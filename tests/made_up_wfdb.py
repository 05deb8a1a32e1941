"""Made-up WFDB records for tests, as the `wfdb` library writes them."""

from pathlib import Path
from typing import Any, Sequence, Union

import numpy as np
import wfdb

from fairseq_signals_ext.common.leads import LEADS


def write_wfdb(
    path: Path,
    counts: Any = None,
    leads: Sequence[str] = LEADS,
    rate: float = 500,
    unit: str = "mV",
    gain: Union[None, float, Sequence[float]] = 1000.0,
    baseline: Union[int, Sequence[int]] = 0,
    fmt: str = "16",
    comments: Sequence[str] = (),
    **others: Any,
) -> Path:
    """A record; returns its header.

    Args:
        path: without a suffix; its folder is made if need be.
        counts: leads x samples; with `samps_per_frame` among the others, a row per lead of any length.
        rate: Hz, frames per second.
        gain: counts per unit; one for all leads, or one per lead; None: the finest that fits `p_signal`.
        baseline: count at 0, in the same way.
        others: of `wfdb.wrsamp`, such as `base_time`, or `p_signal` (samples x leads) in place of counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number = len(leads)
    if gain is not None:
        others["adc_gain"] = list(np.broadcast_to(np.asarray(gain, float), number))
        others["baseline"] = [int(one) for one in np.broadcast_to(baseline, number)]
    if "samps_per_frame" in others:
        others["e_d_signal"] = [np.asarray(row, np.int64) for row in counts]
    elif counts is not None:
        others["d_signal"] = np.asarray(counts, np.int64).T
    more = {"fmt": [fmt] * number, "comments": list(comments), "write_dir": str(path.parent)}
    wfdb.wrsamp(path.name, rate, [unit] * number, list(leads), **more, **others)
    return path.with_name(f"{path.name}.hea")
