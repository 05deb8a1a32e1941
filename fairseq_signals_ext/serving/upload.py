"""An upload in its folder, independent of HTTP."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Mapping, Optional


@dataclass(frozen=True)
class Upload:
    """The files of one recording, and metadata missing from them.

    Attributes:
        folder: folder of the files.
        names: name in the folder -> the sender's name, without folders.
        sample_rate, leads, unit: arguments of `readers.read_ecg`.
        anonymous: whether to leave out everything about the patient.
    """

    folder: Path
    names: Mapping[str, str]
    sample_rate: Optional[float] = None
    leads: Optional[List[str]] = None
    unit: Optional[str] = None
    anonymous: bool = False

    @property
    def name(self) -> str:
        """Its name in messages: the sender's name of its first file."""
        return next(iter(self.names.values()))

    def in_senders_words(self, message: str) -> str:
        """Replace local paths in a message by the sender's names of the files."""
        for name, sent in self.names.items():
            message = message.replace(str(self.folder / name), sent)
        return message.replace(f"{self.folder}/", "").replace(str(self.folder), "upload")
