"""Embed ECGs as vectors, find their nearest neighbours, and draw a map of them.

examples:
  fairseq-signals-ext embed run/checkpoints/checkpoint_best.pt ecg.dcm \\
      records/*.hea --out embeddings
  fairseq-signals-ext embed mimic_iv_ecg_physionet_pretrained.pt data/all.tsv \\
      --out known --jobs 4
  fairseq-signals-ext embed model.pt folder/ --out new --index known \\
      --neighbours 5
  fairseq-signals-ext embed model.pt data --out known --umap --color AF \\
      --table data/labels/cinc2021/labels.csv
  fairseq-signals-ext embed --from known --umap --color age \\
      --table data/recordings.parquet --overwrite

Recordings are read and cut as in predict. The embedding of a recording is the
mean of the encoder's output over frames and segments, or that of another layer
(--layer). Writes to OUT:

  embeddings.npy     float32, one row per vector; open it with numpy.load(...,
                     mmap_mode="r")
  embeddings.csv     one row per recording: record id, file, idx, source, source
                     file, patient, start time (where they are known), labels
                     (with --known-labels), seconds, segments, flags; its
                     vectors are rows first_row to first_row + rows -
                     1. With --per frame, frames is the number per segment
                     (without padding): row first_row + s * frames + f is frame
                     f of segment s
  embedding.json     the model; frame f of segment s begins at s *
                     segment_seconds + f * frame_seconds
  embeddings.parquet with --format parquet, instead of .npy and .csv: one row
                     per vector, with its start in s
  map.png, map.csv   with --umap: a position for each vector; for fewer than 45
                     vectors by principal components
  neighbours.csv     with --index: for each recording the nearest known ones by
                     cosine distance, except itself
  rejected.csv       files that could not be used, with the reason

With --from, existing embeddings are used and no model runs; a map in another
colour reuses the positions in map.csv. UMAP uses one thread, so that it gives
the same map each time. The exit status is 1 if a file was rejected. --resume
continues an interrupted run; runs can be divided into parts as in predict.
"""

import argparse
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.commands import _run_settings as run_settings
from fairseq_signals_ext.commands._finished import status_of
from fairseq_signals_ext.commands._parts import Job, run_job
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_free, only_one
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.inference.model import EMBEDDED
from fairseq_signals_ext.inference.parts import Part, SomeInputs
from fairseq_signals_ext.inference.results import REJECTED_FILE, Kept, Results

_FORMATS = ("npy", "parquet")
_NEIGHBOURS_FILE = "neighbours.csv"
_NEIGHBOUR_COLUMNS = {
    **{"record_id": "string", "file": "string", "rank": "int64"},
    **{"neighbour_record_id": "string", "neighbour_file": "string", "neighbour_source_file": "string"},
    **{"neighbour_labels": "string", "distance": "float64"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser, is_needed=False)
    run_arguments.add_inputs(parser, are_needed=False)
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for the results (default with --from: its DIR)")
    parser.add_argument(
        "--per",
        choices=EMBEDDED,
        default="recording",
        help="one vector per recording, segment or frame (default recording)",
    )
    parser.add_argument(
        "--layer",
        metavar="N",
        type=int,
        help="output of this transformer layer, from 1; 0: the input of the first (default: output of the encoder)",
    )
    parser.add_argument("--format", choices=_FORMATS, default="npy", help="format of the vectors (default npy)")
    parser.add_argument(
        "--known-labels",
        metavar="LABELS",
        help="DIR/labels/NAME of the prepared folder: also store known labels; reports show them for neighbours",
    )
    group = parser.add_argument_group("maps and neighbours")
    group.add_argument(
        "--from",
        dest="known",
        metavar="DIR",
        type=Path,
        help="use existing embeddings instead of CKPT and FILE",
    )
    group.add_argument("--umap", action="store_true", help="draw a map (needs umap-learn)")
    group.add_argument("--color", metavar="COLUMN", help="column of --table or embeddings.csv that colours the map")
    group.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help="CSV or Parquet with a column file or record_id, or labels.csv or recordings.parquet of a prepared folder",
    )
    group.add_argument("--index", metavar="DIR", type=Path, help="known embeddings, to search for the nearest ones")
    group.add_argument(
        "--neighbours", metavar="K", type=int, default=5, help="number of nearest neighbours (default 5)"
    )
    run_arguments.add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Embed, write and print a summary; returns the exit status.

    Raises:
        UserError: the model, an input, a table or an index cannot be used, or results exist already.
    """
    _check(options)
    if options.known is None:
        return run_job(Embedding, options)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options.out = options.out or options.known
    with only_one(options.out):
        _prepare_out(options)
        _make_of_vectors(options, options.known)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Check that options fit together, before a model runs for hours."""
    if options.table is not None and options.color is None:
        raise UserError(f"--table {options.table}: choose one of its columns with --color")
    if options.color is not None and not options.umap:
        raise UserError("--color: needs a map; add --umap")
    if options.index is not None and options.neighbours < 1:
        raise UserError(f"--neighbours {options.neighbours}: give at least 1")
    if options.index is not None and options.known is None and options.per != "recording":
        raise UserError("--index: compares whole recordings; leave --per out")
    if options.known is None and not (options.inputs and options.out):
        raise UserError("give CKPT, FILE and --out, or existing embeddings with --from")
    if options.known is not None and options.known_labels is not None:
        raise UserError("--known-labels: are noted while recordings are embedded; leave it out with --from")
    if options.known is not None and options.checkpoint is not None:
        raise UserError(f"--from {options.known}: no model runs; leave CKPT and FILE out")
    if options.known is not None and not (options.umap or options.index):
        raise UserError("--from: give also --umap or --index")
    if options.table is not None:
        from fairseq_signals_ext.analysis.map_drawing import check_column

        check_column(options.table, options.color)


def _prepare_out(options: argparse.Namespace) -> None:
    """Check that the results do not exist yet, or may be replaced."""
    asked = [*(["map.png"] if options.umap else []), *([_NEIGHBOURS_FILE] if options.index else [])]
    check_free(options.out, asked, options.overwrite)


class Embedding(Job):
    """The embeddings of many recordings, and the map and neighbours made from them."""

    name = "embed"

    def __init__(self, options: argparse.Namespace):
        from fairseq_signals_ext.analysis.embeddings_folder import model_facts
        from fairseq_signals_ext.analysis.known_labels import known_labels
        from fairseq_signals_ext.inference.loading import load_model

        self._options = options
        self._inputs, self._how = run_settings.inputs_of(options), run_settings.run_options(options)
        self._model = load_model(options.checkpoint, **run_arguments.model_options(options))
        self._facts = model_facts(self._model, options.per, options.layer)
        self._known = None if options.known_labels is None else known_labels(options.known_labels, self._inputs.shards)
        _check_later_steps(options, self._facts, len(self._inputs))

    @staticmethod
    def files(options: argparse.Namespace) -> List[str]:
        """Names of vectors and tables in all formats, map and neighbours."""
        from fairseq_signals_ext.analysis.embeddings_folder import ARRAY_FILE, FACTS_FILE, PARQUET_FILE, TABLE_FILE
        from fairseq_signals_ext.analysis.map import MAP_PICTURE, MAP_TABLE

        vectors = [ARRAY_FILE, TABLE_FILE, PARQUET_FILE, FACTS_FILE]
        return [*vectors, MAP_PICTURE, MAP_TABLE, _NEIGHBOURS_FILE, REJECTED_FILE]

    def settings(self) -> Dict[str, Any]:
        """All settings that change the rows."""
        names = ("labels", "known_labels", "bf16", "per", "layer", "input_rate", "input_unit", "input_leads")
        return {
            "checkpoint": run_settings.identity([self._options.checkpoint]),
            "list of recordings": self._inputs.fingerprint(),
            **{name: getattr(self._options, name) for name in names},
        }

    def inputs(self, part: Part) -> int:
        """The number of recordings in a part."""
        return len(part.range_of(len(self._inputs)))

    def fill(self, results: Results, part: Part) -> Iterator[None]:
        """Add vectors, and a row per recording."""
        from fairseq_signals_ext.analysis.embeddings import TABLE, embed_all
        from fairseq_signals_ext.analysis.embeddings_folder import LABELS
        from fairseq_signals_ext.inference.reading_ahead import Rejected

        options, inputs = self._options, SomeInputs(self._inputs, part.range_of(len(self._inputs)))
        of_what = (options.per, options.layer)
        for found in embed_all(self._model, inputs, *of_what, self._how, results.done, results.several()):
            results.note_several(found.number, found.ecgs)
            if isinstance(found, Rejected):
                results.reject(found.name, found.reason)
            else:
                rows = {"rows": len(found.vectors), "frames": found.frames}
                labels = {} if self._known is None else {LABELS: self._known.of(found.recording.idx)}
                results.add(TABLE, {"file": found.name, **found.recording.row, **labels, **rows})
                results.add_array(found.vectors)
            results.count(found.ends_batch)
            yield

    def finish(self, results: Kept) -> int:
        """Write vectors and table, map and neighbours."""
        from fairseq_signals_ext.analysis.embeddings import write_embeddings

        options = self._options
        path, recordings = write_embeddings(options.out, results, self._facts, options.format)
        results.finish()
        print(f"{path}: {counted(recordings, 'recording')}, per {options.per}, {self._facts['dimension']} dimensions")
        _make_of_vectors(options, options.out)
        return status_of(options.out)


def _make_of_vectors(options: argparse.Namespace, folder: Path) -> None:
    if options.umap:
        _draw(options, folder)
    if options.index is not None:
        _write_neighbours(options, folder)


def _check_later_steps(options: argparse.Namespace, facts: Mapping[str, Any], recordings: int) -> None:
    """Check that a map and neighbours are possible, before the model runs."""
    from fairseq_signals_ext.analysis.map import check_method
    from fairseq_signals_ext.analysis.neighbours import open_index

    if options.umap:
        check_method(recordings)
    # an index made by this run does not exist yet
    if options.index is not None and options.index.resolve() != options.out.resolve():
        open_index(options.index).check_facts(facts)


def _draw(options: argparse.Namespace, folder: Path) -> None:
    from fairseq_signals_ext.analysis.embeddings_folder import open_embeddings
    from fairseq_signals_ext.analysis.map import make_map

    embeddings = open_embeddings(folder)
    print(f"{make_map(embeddings, options.out, options.color, options.table)}: {len(embeddings.vectors)} points")


def _write_neighbours(options: argparse.Namespace, folder: Path) -> None:
    from fairseq_signals_ext.analysis.embeddings_folder import open_embeddings
    from fairseq_signals_ext.analysis.neighbours import neighbour_rows, open_index
    from fairseq_signals_ext.inference.results import write_csv

    rows = neighbour_rows(open_embeddings(folder), open_index(options.index), options.neighbours)
    path = options.out / _NEIGHBOURS_FILE
    print(f"{path}: {write_csv(path, _NEIGHBOUR_COLUMNS, rows)} neighbours")
