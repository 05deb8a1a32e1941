"""The folder of an export for ECG-FM's own tools, which has no description: its checkpoint says all."""

from pathlib import Path

from fairseq_signals_ext.checkpoints.description import CONFIG_FILE


def checkpoint_of(path: Path) -> Path:
    """The checkpoint in a folder that has just one and no `config.json`, as `export --to ecg-fm` makes it.

    Returns:
        Any other path as it is.
    """
    if not path.is_dir() or (path / CONFIG_FILE).exists():
        return path
    found = sorted(path.glob("*.pt"))
    return found[0] if len(found) == 1 else path
