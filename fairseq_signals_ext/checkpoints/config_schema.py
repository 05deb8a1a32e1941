"""What options a section of a config has, and which values they take."""

from typing import Any, Dict


class Schema:
    """Options of a section, as its dataclass in fairseq or here has them.

    Attributes:
        defaults: by names, in the order of the dataclass; a link is text such as "${optimization.lr}".
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
