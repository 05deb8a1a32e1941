"""How fast each pretraining objective trains on a CPU: seconds of signal per processor second, against ECG-FM's.

    python benchmarks/objectives.py [--updates 4] [--out FILE.md]

Each config is trained twice by fairseq-hydra-train, with one thread, on simulated recordings of 10 s; the second
training makes more updates. The difference of their processor seconds is the time of these updates. The small configs
are trained as they are; of the full ones the batch is small, and everything is computed in fp32. The tables say how
much signal a config reads per update, because items are pairs of segments of 5 s, recordings of 10 s, or parts of them;
the rate is in seconds of signal per processor second.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from _shared import hand_over, machine, noise, write_shards
from recipes_pretraining import RATES, Recipe, train
from tqdm import tqdm

from fairseq_signals_ext.common.errors import exits_on_user_error

_ON_A_CPU = (
    *("++common.cpu=true", "++distributed_training.distributed_world_size=1", "optimization.update_freq=[1]"),
    "++model.bf16_autocast=false",
)
_ITEM = 10.0  # s of signal per pair of segments, or per recording


class Measured(NamedTuple):
    """A config to measure."""

    config: str
    items: int  # per update
    seconds: float  # of signal per item
    overrides: Sequence[str] = ()

    @property
    def signal(self) -> float:
        """Seconds of signal per update."""
        return self.items * self.seconds

    def recipe(self) -> Recipe:
        """Return its settings for `train`."""
        # the longer training would write more checkpoints
        return Recipe(self.config, (*self.overrides, f"dataset.batch_size={self.items}", "++checkpoint.no_save=true"))


SMALL = (
    Measured("tiny", 16, _ITEM),
    Measured("ecg_data2vec_tiny", 16, _ITEM),
    Measured("ecg_jepa_tiny", 16, _ITEM),
    Measured("ecg_cpc_tiny", 16, 2.5),
)
FULL = (
    Measured("ecg_fm_fast", 4, _ITEM, (*_ON_A_CPU, "++model.compile=false")),
    Measured("ecg_jepa_s", 4, _ITEM, _ON_A_CPU),
    Measured("ecg_cpc", 4, _ITEM, _ON_A_CPU),
)


def seconds_per_update(one: Measured, data: Path, updates: int) -> float:
    """Return processor seconds per update, without the start of the program."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            train(one.recipe(), data, Path(folder) / str(number), number, RATES[0], 1) for number in (2, 2 + updates)
        )
    return (many - few) / updates


def table(measured: Sequence[Measured], seconds: Dict[str, float]) -> List[str]:
    """Return the rows of a table; the first config is the reference."""
    lines = [
        "| config | items per update | s of signal per update | processor s per update | s of signal per s | ratio |"
    ]
    lines.append(f"{'| --- ' * 6}|")
    first = measured[0].signal / seconds[measured[0].config]
    for one in measured:
        rate = one.signal / seconds[one.config]
        values = f"{one.items} | {one.signal:.0f} | {seconds[one.config]:.2f} | {rate:.0f} | {rate / first:.2f}"
        lines.append(f"| {one.config} | {values} |")
    return lines


@exits_on_user_error
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=4, help="updates to measure of the full configs (default 4)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    seconds: Dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), 64, noise())
        for one in tqdm([*SMALL, *FULL], leave=False):
            updates = 5 * args.updates if one in SMALL else args.updates
            seconds[one.config] = seconds_per_update(one, Path(folder), updates)
    lines = [f"{machine()}; one thread, fp32.", "", *table(SMALL, seconds), "", *table(FULL, seconds)]
    hand_over(lines, args.out)


if __name__ == "__main__":
    main()
