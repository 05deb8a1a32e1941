"""How a damaged recording, found by a worker process in the middle of an epoch, ends the run with one line."""

from typing import Any, Dict, List

from fairseq.data import BaseWrapperDataset

from fairseq_signals_ext.errors import UserError


class ErrorsAsSamples(BaseWrapperDataset):
    """Hands a `UserError` on as a sample: the data loader and hydra would bury an exception under tracebacks."""

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error

    def collater(self, samples: List[Any]) -> Dict[str, Any]:
        """A batch, or `{"error": message}` if a sample is an error."""
        try:
            for sample in samples:
                if isinstance(sample, UserError):
                    raise sample
            return self.dataset.collater(samples)
        except UserError as error:
            return {"error": str(error)}

    def batch_by_size(self, *args: Any, **kwargs: Any) -> Any:
        """As the dataset's; fairseq's wrapper leaves it out."""
        return self.dataset.batch_by_size(*args, **kwargs)


def exit_if_error(sample: Dict[str, Any]) -> None:
    """End the program with the message that a sample carries, if it carries one."""
    if "error" in sample:
        raise SystemExit(f"error: {sample['error']}")
