"""How Hydra reads configuration files: a mistake in one is a line that names file and line."""

from __future__ import annotations

import io
import os
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from noisyexp.errors import RecordError
from noisyexp.records.yaml_file import NOT_READ, explain_yaml, read_text

HEADER = 512
"""Characters of a file in which Hydra looks for `# @package`."""


class ConfigFileError(HydraException):
    """A configuration file has a mistake; the message is one line."""


class ConfigFiles(FileConfigSource):
    """Files as Hydra's own source reads them; a byte-order mark at the beginning is no content."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file.

        Raises:
            ConfigLoadError: there is none.
            ConfigFileError: it is not UTF-8, not YAML, gives a key twice, or holds no keys.
        """
        path = Path(
            os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        )
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        try:
            text = read_text(path)
        except RecordError as error:
            raise ConfigFileError(str(error)) from error
        try:
            config = OmegaConf.load(io.StringIO(text))
        except (*NOT_READ, OmegaConfBaseException) as error:
            raise ConfigFileError(explain_yaml(error, text, path)) from error
        if not isinstance(config, DictConfig) or (":" not in text and len(config) > 0):
            kind = "a text" if isinstance(config, DictConfig) else "a list"
            raise ConfigFileError(f"{path}, line 1: {kind}, where keys are expected (key: value)")
        return ConfigResult(
            config=config,
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=self._header(text, path),
        )

    def _header(self, text: str, path: Path) -> dict[str, str | None]:
        """What the comments that begin with @ say: the section that the file's keys belong to."""
        try:
            return self._get_header_dict(text[:HEADER])
        except ValueError as error:
            raise ConfigFileError(
                f"{path}: {error}; a first line of this kind is # @package <section>"
            ) from error


def read_config_files() -> None:
    """Let Hydra read files by `ConfigFiles`; more than once does no harm."""
    Plugins.instance()  # enters Hydra's own first
    SourcesRegistry.instance().types[ConfigFiles.scheme()] = ConfigFiles
