"""An upload as it lies in its folder; what reads it need know nothing of HTTP."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Mapping, Optional


@dataclass(frozen=True)
class Upload:
    """The files of one recording, and what is said of files that do not say it themselves.

    Attributes:
        folder: holds them.
        names: name in the folder -> name that the sender knows, without folders.
        sample_rate, leads, unit: as `readers.read_ecg` takes them.
        anonymous: whether nothing of the patient may be said.
    """

    folder: Path
    names: Mapping[str, str]
    sample_rate: Optional[float] = None
    leads: Optional[List[str]] = None
    unit: Optional[str] = None
    anonymous: bool = False

    @property
    def name(self) -> str:
        """What a message calls it: the sender's name of its first file."""
        return next(iter(self.names.values()))

    def in_senders_words(self, message: str) -> str:
        """A message with the sender's names of the files, and nothing of where they are."""
        for name, sent in self.names.items():
            message = message.replace(str(self.folder / name), sent)
        return message.replace(f"{self.folder}/", "").replace(str(self.folder), "upload")
