"""Compare text with a file under ``golden/``; GRAPHSHARD_UPDATE_GOLDEN=1 writes the file instead."""

import os

from support.repository import GOLDEN


def assert_golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GRAPHSHARD_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no {path.name} yet: run once with GRAPHSHARD_UPDATE_GOLDEN=1"
    assert text == path.read_text(encoding="utf-8"), (
        f"{path.name} differs; GRAPHSHARD_UPDATE_GOLDEN=1 rewrites it"
    )
