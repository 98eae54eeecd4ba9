"""What it takes that files are on disk, and are the ones that were written."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was read."""

    path: Path
    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The file as it is now."""
        found = path.stat()
        return cls(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def is_written_to(self) -> bool:
        """Whether this very file was written to since; one that was removed or replaced is still read as it was."""
        try:
            now = Stamp.of(self.path)
        except OSError:
            return False
        return (now.device, now.inode) == (self.device, self.inode) and now != self


def sync(path: Path) -> None:
    """Come back when a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
