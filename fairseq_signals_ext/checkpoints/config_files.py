"""Read a config of ECG-FM's framework from a YAML file or a checkpoint; and options of the sections here."""

from pathlib import Path
from typing import Any, Dict, List

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.plain_configs import check_size, resolve_links
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.hints import close_names, did_you_mean

Sections = Dict[str, Dict[str, Any]]
# ECG-FM's files have 8 kB; reading takes a second per 100 kB
_LARGEST_FILE = 100_000


def read_config(path: Path) -> Sections:
    """Read a config from a YAML file or a checkpoint, and resolve links to other options; other links stay text.

    Raises:
        UserError: it cannot be read, is not a config, or is too large.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; {_meant(path)}")
    if path.suffix.lower() not in (".yaml", ".yml"):
        return dict(read_checkpoint(path, "give a config (.yaml) or a checkpoint", to_build=False).config)
    import yaml

    try:
        config = _from_yaml(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a config in YAML ({reason}); give the file beside ECG-FM's checkpoint") from None
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise UserError(f"{path}: not a config: it has no sections such as task and model; give another file")
    return resolve_links(config, targets=config)[0]


def _meant(path: Path) -> str:
    """What to give in place of a file that does not exist: one beside it, or a config of this package."""
    otherwise = "give a config (.yaml) or a checkpoint"
    beside = [file.name for file in path.parent.glob("*") if file.suffix.lower() in (".yaml", ".yml", ".pt")]
    if close_names(path.name, beside):
        return did_you_mean(path.name, beside, otherwise)
    ours = {file.stem: file.parent.name for file in Path(fairseq_signals_ext.configs_dir()).glob("*/*.yaml")}
    close = close_names(path.stem, ours)
    if not close:
        return otherwise
    folder = f"$(fairseq-signals-ext configs {ours[close[0]]})"
    as_it_is = f"It comes with this package and is used as it is: --config-dir {folder} --config-name {close[0]}"
    return f"{did_you_mean(path.stem, ours, otherwise)} {as_it_is}"


def _from_yaml(path: Path) -> Any:
    """Read a YAML file by OmegaConf's rules for numbers, without following links.

    Nested aliases can expand to huge data, so their size is counted first.
    """
    from omegaconf._utils import get_yaml_loader

    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")
    loader = get_yaml_loader()(path.read_text(encoding="utf-8"))
    try:
        node = loader.get_single_node()
        check_size(node, _inner_nodes)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _inner_nodes(node: Any) -> List[Any]:
    """Return the child nodes of a YAML node."""
    value: Any = getattr(node, "value", None)
    if not isinstance(value, list):
        return []
    # children of a mapping are pairs of key and value
    return [inner for part in value for inner in (part if isinstance(part, tuple) else (part,))]


class Schema:
    """Options of a section, from its dataclass in fairseq or here.

    Attributes:
        defaults: by name, in the order of the dataclass; a link is text such as "${optimization.lr}".
    """

    def __init__(self, dataclass_of_section: Any):
        from omegaconf import OmegaConf

        self._config = OmegaConf.structured(dataclass_of_section)
        self.defaults: Dict[str, Any] = OmegaConf.to_container(self._config, enum_to_str=True)  # type: ignore

    def takes(self, option: str, value: Any) -> bool:
        """Whether the option can have this value."""
        from omegaconf.errors import OmegaConfBaseException

        try:
            self._config[option] = value
        except OmegaConfBaseException:
            return False
        return True
