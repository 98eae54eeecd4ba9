"""Where the repository's own files are, and the real graphs that stand beside it on some machines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GOLDEN = ROOT / "tests" / "golden"
SUPPORT = Path(__file__).parent
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Cora and the Debian packages; tests that need them are skipped where the folder is absent."""
