"""The manifest of a directory of shards: what each rank's file must be. It has a checksum of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from graphshard.errors import ShardError
from graphshard.shard.checks import check_manifest

FORMAT = "graphshard-shards"
VERSION = 4
MANIFEST = "manifest.json"


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of everything but the checksum itself, whatever the layout of the JSON."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a directory.

    Raises:
        ShardError: it is missing, damaged, or of another format or version.
    """
    file = folder / MANIFEST
    if not folder.is_dir():
        raise ShardError(f"there is no directory {folder}: make it with `graphshard partition`")
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{folder} holds no shards: {MANIFEST} is missing") from None
    except OSError as error:
        raise ShardError(f"cannot read {file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{file} is damaged, it is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ShardError(f"{file} is not a manifest of graphshard")
    if manifest.get("version") != VERSION:
        raise ShardError(
            f"{file} has format version {manifest.get('version')}, this graphshard reads version "
            f"{VERSION}: run `graphshard partition` again"
        )
    if manifest.get("sha256") != manifest_checksum(manifest):
        raise ShardError(f"{file} is damaged: its checksum does not fit its content")
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise ShardError(f"{file} is damaged: {error}; run `graphshard partition` again") from None
    return manifest
