"""Pretraining on 1, 8, 64 and 512 GPUs, on paper: from a measured update, sizes of messages and assumed bandwidths.

    python benchmarks/many_gpus.py [--update 0.278] [--goal 0.095] [--network 40] [--out FILE.md]

Nothing is timed here. Measured, and read from `benchmarks/results/training_gpu.md` unless given: seconds of an update
on one GPU, the share of its backward pass, and the rate of an fp32 matrix product. The same is done for an update as
short as the project's goal, which nobody has measured. Assumed: what the arguments say, and these formulas.

* Seconds of an update are in proportion to its pairs, but never less than `--shortest`, nor is that above the update's
  own seconds.

* All-reduce: ring over N, 2 (N - 1) / N x bytes / bandwidth + 2 (N - 1) x latency; over several machines in three
  steps: reduce-scatter within a machine, ring between machines for a GPU's share, all-gather within a machine.
* legacy_ddp sends all gradients after the backward pass. pytorch_ddp sends 25 MB at a time during it: what does not fit
  into the backward pass is waited for, and always the last piece.
* Gathering for CMSC: features, patient and segment of 342 segments go to all GPUs, gradients of the features come back,
  and every GPU compares all with all: 3 products of (171 N) x (171 N) x 768 in fp32, `PASSES` over that matrix through
  the GPU's memory, of which `COPIES` are held at once.
* Data come fast enough, and GPUs take equally long. A machine whose memory does not hold the data reads all of them
  in each epoch, as all GPUs work in the same window of `task.shuffle_window_gb`.
"""

import argparse
import itertools
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Tuple

MEASURED = Path(__file__).parent / "results" / "training_gpu.md"
GPUS, SPREAD = (1, 8, 64, 512), (1, 3, 8, 16, 64)
GRADIENT_BYTES, BACKENDS = {"fp32": 4, "bf16": 2}, {"legacy_ddp": False, "pytorch_ddp": True}  # overlaps?
EPOCHS, SEGMENTS, PAPER_PAIRS = 240, 1_405_625, 3 * 171  # of the paper's run; pairs of an update on all of its GPUs
WIDTH, ID_COLUMNS = 768, 4  # numbers that are gathered for a segment
BUCKET = 25 * 2**20  # bytes of fp32 gradients that pytorch_ddp sends together
PASSES, COPIES = 20, 6
SEGMENT_BYTES = 12 * 2500 * 2  # stored, of 12 leads, 5 s at 500 Hz
SHORTEST, GOAL = 0.1, 0.095  # s; the goal is 3,600 segments/s of 171 pairs
Way = Tuple[str, str]  # precision of gradients, backend
ALL_WAYS: List[Way] = list(itertools.product(GRADIENT_BYTES, BACKENDS))
SLOWEST_AND_FASTEST: List[Way] = [ALL_WAYS[0], ALL_WAYS[-1]]


@dataclass(frozen=True)
class Update:
    """An update on one GPU: s, share of the backward pass, pairs, parameters, FLOP/s of fp32 products, least s."""

    seconds: float
    backward: float
    pairs: int
    parameters: int
    fp32_rate: float
    shortest: float = SHORTEST

    @property
    def floor(self) -> float:
        """Seconds that no update goes below, whatever its batch: `shortest`, unless this one is shorter."""
        return min(self.shortest, self.seconds)

    def seconds_of(self, pairs: float) -> float:
        """Seconds of an update of so many pairs on the GPU."""
        return max(self.floor, self.seconds * pairs / self.pairs)


@dataclass(frozen=True)
class Cluster:
    """Bandwidths in bytes/s and one direction, of one GPU; latencies in s."""

    inside: float = 300e9
    between: float = 40e9
    memory: float = 4e12
    latency_inside: float = 3e-6
    latency_between: float = 10e-6
    gpus_a_machine: int = 8


def ring_seconds(size: float, members: int, bandwidth: float, latency: float) -> float:
    """An all-reduce of `size` bytes around a ring."""
    return 2 * (members - 1) * (size / members / bandwidth + latency)


def all_reduce_seconds(size: float, gpus: int, cluster: Cluster, messages: int = 1) -> float:
    """An all-reduce of `size` bytes in so many messages, within and between machines."""
    local = min(gpus, cluster.gpus_a_machine)
    machines = math.ceil(gpus / local)
    part = size / messages
    within = ring_seconds(part, local, cluster.inside, cluster.latency_inside)
    between = ring_seconds(part / local, machines, cluster.between, cluster.latency_between)
    return messages * (within + between)


def all_gather_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """An all-gather of `size` bytes of each GPU, or a reduce-scatter of as many."""
    local = min(gpus, cluster.gpus_a_machine)
    machines = math.ceil(gpus / local)
    between = (machines - 1) * (size / cluster.between + cluster.latency_between)
    return between + (local - 1) * (machines * size / cluster.inside + cluster.latency_inside)


def waiting_seconds(update: Update, gpus: int, cluster: Cluster, gradient_bytes: int, overlaps: bool) -> float:
    """Waiting for gradients, of so many bytes each."""
    size = update.parameters * gradient_bytes
    if not overlaps:
        return all_reduce_seconds(size, gpus, cluster)
    messages = math.ceil(4 * update.parameters / BUCKET)
    sending = all_reduce_seconds(size, gpus, cluster, messages)
    hidden = update.seconds * update.backward * (messages - 1) / messages
    return max(sending / messages, sending - hidden)


def cmsc_seconds(update: Update, gpus: int, cluster: Cluster) -> float:
    """What gathering for CMSC adds: sending, and comparing more than one's own pairs."""
    size = 2 * update.pairs * (WIDTH + ID_COLUMNS) * 4
    more = update.pairs**2 * (gpus**2 - 1)
    comparing = 3 * 2 * WIDTH * more / update.fp32_rate + PASSES * 4 * more / cluster.memory
    return 2 * all_gather_seconds(size, gpus, cluster) + comparing


def cmsc_gigabytes(update: Update, gpus: int) -> float:
    """Memory for the comparisons of all with all."""
    return COPIES * 4 * (update.pairs * gpus) ** 2 / 1e9


def read_update(path: Path, precision: str) -> Update:
    """The measured update of `benchmarks/training.py` in fp32 or bf16."""
    text = path.read_text(encoding="utf-8")
    table = re.search(rf"\| {precision}, (\d+) pairs, ([\d,]+) parameters .*?(?=\n\n|\Z)", text, re.DOTALL)
    peak = re.search(r"\| fp32, .*?\(([\d.]+) TFLOP/s", text, re.DOTALL)
    if table is None or peak is None:
        raise SystemExit(
            f"error: {path}: no update in {precision} and rate in fp32; write it by benchmarks/training.py"
        )
    seconds, backward = (
        float(re.findall(rf"\| {name} \| ([\d.]+)", table.group())[0]) for name in ("an update", "backward")
    )
    return Update(
        seconds, backward / 100, int(table.group(1)), int(table.group(2).replace(",", "")), 1e12 * float(peak.group(1))
    )


def cell(update: Update, gpus: int, waiting: float) -> str:
    """Segments per second, share of so many times one GPU's, hours for the paper's run, and waiting."""
    seconds = update.seconds + waiting
    rate = 2 * update.pairs * gpus / seconds
    hours = EPOCHS * SEGMENTS / rate / 3600
    waits = f" (waits {1e3 * waiting:.1f} ms)" if gpus > 1 else ""
    return f"{rate:,.0f}/s, {100 * update.seconds / seconds:.0f} %, {hours:.{1 + (hours < 1)}f} h{waits}"


def row(name: str, cells: List[str]) -> str:
    """A row of a table."""
    return f"| {name} | {' | '.join(cells)} |"


def growing_batch(update: Update, clusters: List[Tuple[str, Cluster]], ways: List[Way], title: str = "") -> List[str]:
    """The same batch on each GPU."""
    rows = [
        row(f"{title}{update.pairs} pairs a GPU", [f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS]),
        "| --- " * (len(GPUS) + 1) + "|",
        row("segments of an update", [f"{2 * update.pairs * gpus:,}" for gpus in GPUS]),
        row("updates an epoch", [f"{SEGMENTS / (2 * update.pairs * gpus):,.0f}" for gpus in GPUS]),
    ]
    for (network, cluster), (precision, backend) in itertools.product(clusters, ways):
        size, overlaps = GRADIENT_BYTES[precision], BACKENDS[backend]
        cells = [cell(update, gpus, waiting_seconds(update, gpus, cluster, size, overlaps)) for gpus in GPUS]
        rows.append(row(f"{network}, {precision} gradients, {backend}", cells))
    network, cluster = clusters[0]
    gathering = [
        f"{1e3 * cmsc_seconds(update, gpus, cluster):,.1f} ms and {cmsc_gigabytes(update, gpus):,.1f} GB"
        for gpus in GPUS
    ]
    rows.append(row(f"{network}, cmsc_gather adds to an update", gathering))
    reading = [f"{reading_rate(update, gpus) / 1e9:.1f} GB/s" for gpus in GPUS]
    return [*rows, row("each machine reads, where its memory does not hold the data", reading)]


def reading_rate(update: Update, gpus: int) -> float:
    """Bytes/s that each machine reads if it keeps nothing: what all GPUs together train on."""
    return 2 * update.pairs * gpus / update.seconds * SEGMENT_BYTES


def papers_batch(update: Update, cluster: Cluster, title: str = "") -> List[str]:
    """The paper's batch, spread over the GPUs, with pytorch_ddp and gradients in bf16."""
    rows = [
        row(f"{title}{PAPER_PAIRS} pairs on all GPUs", ["pairs a GPU", "an update", "the paper's run", "efficiency"]),
        "| --- " * 5 + "|",
    ]
    alone = update.seconds_of(PAPER_PAIRS)
    for gpus in SPREAD:
        computing = update.seconds_of(PAPER_PAIRS / gpus)
        waiting = waiting_seconds(replace(update, seconds=computing), gpus, cluster, GRADIENT_BYTES["bf16"], True)
        seconds = computing + waiting
        hours = EPOCHS * SEGMENTS / (2 * PAPER_PAIRS) * seconds / 3600
        cells = [
            f"{PAPER_PAIRS / gpus:.0f}",
            f"{seconds:.3f} s",
            f"{hours:.1f} h",
            f"{100 * alone / gpus / seconds:.0f} %",
        ]
        rows.append(row(f"{gpus} GPU{'s' * (gpus > 1)}", cells))
    return rows


def origin(update: Update, precision: str, measured: bool) -> str:
    """Where the seconds of an update are from."""
    what = f"an update of {update.pairs} pairs in {precision} takes {update.seconds:g} s on one GPU"
    share = f"{100 * update.backward:.0f} % of it backward"
    file = "`benchmarks/results/training_gpu.md`"
    if not measured:
        return f"Arithmetic. Given, not measured: {what}, {share} ({file})."
    return (
        f"Arithmetic. Measured: {what} ({file}), {share}. That is the stock path: `ecg_fm_fast` could not be measured, "
        f"as no GPU was lent."
    )


def assumptions(update: Update, clusters: List[Tuple[str, Cluster]]) -> str:
    """Bandwidths, latencies, and the shortest update."""
    inside = clusters[0][1]
    between = " or ".join(f"{cluster.between / 1e9:g} GB/s ({name})" for name, cluster in clusters)
    return (
        f"Assumed, of one GPU in one direction: {inside.inside / 1e9:g} GB/s within a machine of "
        f"{inside.gpus_a_machine} GPUs, {between} between machines, {1e6 * inside.latency_inside:g} and "
        f"{1e6 * inside.latency_between:g} us a step; no update takes less than {update.floor:g} s."
    )


def report(
    update: Update, goal: float, clusters: List[Tuple[str, Cluster]], precision: str, measured: bool
) -> List[str]:
    """All lines; `goal` is seconds of an update."""
    hoped, title = replace(update, seconds=goal), "goal, not measured: "
    return [
        origin(update, precision, measured),
        assumptions(update, clusters),
        "",
        *growing_batch(update, clusters, ALL_WAYS),
        "",
        *papers_batch(update, clusters[0][1]),
        "",
        f"The goal of the project, not measured: {2 * hoped.pairs / goal:,.0f} segments/s on one GPU, so an update of "
        f"{hoped.pairs} pairs in {goal:g} s. Assumed: the same share of it backward; no update takes less than "
        f"{hoped.floor:g} s.",
        "",
        *growing_batch(hoped, clusters, SLOWEST_AND_FASTEST, title),
        "",
        *papers_batch(hoped, clusters[0][1], title),
    ]


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of the measured update")
    parser.add_argument("--update", type=positive, help="seconds of an update on one GPU (default: the measured one)")
    parser.add_argument("--goal", type=positive, default=GOAL, help="the same, of the project's goal")
    parser.add_argument("--inside", type=positive, default=300.0, help="GB/s of a GPU within its machine (NVLink)")
    parser.add_argument("--network", type=positive, default=40.0, help="GB/s of a GPU between machines, fast network")
    parser.add_argument("--slow-network", type=positive, default=1.25, help="the same, 100 Gbit/s shared by 8 GPUs")
    parser.add_argument(
        "--shortest",
        type=positive,
        help=f"an update takes so many s whatever the batch (default: {SHORTEST}, or the update if that is shorter)",
    )
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> None:
    """Print; with --out also write."""
    options = parse(arguments)
    update = read_update(MEASURED, options.precision)
    update = replace(update, seconds=options.update or update.seconds, shortest=options.shortest or SHORTEST)
    if options.shortest and options.shortest > update.seconds:
        raise SystemExit(
            f"error: --shortest {options.shortest:g}: an update takes {update.seconds:g} s, and the shortest cannot "
            f"take longer"
        )
    networks = (("fast network", options.network), ("slow network", options.slow_network))
    clusters = [(name, Cluster(inside=1e9 * options.inside, between=1e9 * rate)) for name, rate in networks]
    text = "\n".join(report(update, options.goal, clusters, options.precision, options.update is None)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
