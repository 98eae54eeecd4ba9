"""The version of the package: that of the installed distribution, or of the source tree that is imported from. And the
newest torch that its tests were run with.
"""

from __future__ import annotations

import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def _version() -> str:
    if _PROJECT.is_file():  # a source tree, whatever may be installed beside it
        project = tomllib.loads(_PROJECT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "graphshard":
            return str(project["version"])
    try:
        return version("graphshard")
    except PackageNotFoundError:
        return "unknown"


__version__ = _version()

NEWEST_TORCH = (2, 14)
"""The newest release of torch, major and minor, that the tests ran with."""


def warn_of_newer(torch_version: str) -> None:
    """Say what is not known of a torch that came out since: once, as Python shows a warning of one line once."""
    known = tuple(int(part) for part in torch_version.split("+", maxsplit=1)[0].split(".")[:2])
    if known > NEWEST_TORCH:
        newest = ".".join(map(str, NEWEST_TORCH))
        warnings.warn(
            f"torch {torch_version} is newer than {newest}, the newest that graphshard {__version__} was tested with: "
            "whether it captures models in the same way is not known. Every program is still compared with its model, "
            "and graphshard.verify compares it on several ranks",
            UserWarning,
            stacklevel=3,
        )
