"""The version of the package: that of the installed distribution, or of the source tree that is imported from."""

from __future__ import annotations

import tomllib
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
