"""What a report shows."""

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.explaining.saliency import ATTENTION, MapOptions
from fairseq_signals_ext.reporting.calibration import Calibration

if TYPE_CHECKING:
    from fairseq_signals_ext.embedding.neighbours import NeighbourIndex


@dataclass(frozen=True, eq=False)
class ReportOptions:
    """What a report shows.

    Attributes:
        anonymous: nothing that tells who the patient is: no patient id, age, sex, time, record id, file, statements.
        saliency: method of the map under the traces, see `explaining.saliency.MapOptions`; None: no map.
        layer: of attention and rollout; None: the last.
        label: whose score the map is of, for methods other than these two; None: the most probable label of those that
            reach their threshold, of all if none does.
        index: known recordings, embedded by the same model (of an ensemble by its first), a vector each.
        neighbours: how many of them are shown.
        calibration: how good the scores were in an evaluation.
        date: of the report; None: today.

    Raises:
        UserError: an option cannot be used.
    """

    anonymous: bool = False
    saliency: Optional[str] = ATTENTION
    layer: Optional[int] = None
    label: Optional[str] = None
    index: Optional["NeighbourIndex"] = None
    neighbours: int = 5
    calibration: Optional[Calibration] = None
    date: Optional[datetime.date] = None

    def __post_init__(self) -> None:
        if self.saliency is not None:
            how = self.map_options
            if self.label is not None and how.is_attention:
                cure = "leave the label out, or use gradient"
                raise UserError(f"label {self.label!r}: {self.saliency} is the same for all labels; {cure}")
        if self.neighbours < 1:
            raise UserError(f"{self.neighbours} neighbours: ask for at least 1")
        if self.index is not None and self.index.per != "recording":
            cure = "embed again with --per recording"
            raise UserError(f"{self.index.embeddings.folder}: has a vector a {self.index.per}; {cure}")

    @property
    def map_options(self) -> MapOptions:
        """How the map is made, if one is wanted."""
        return MapOptions(self.saliency or ATTENTION, self.layer)
