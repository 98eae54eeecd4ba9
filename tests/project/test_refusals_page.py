"""The page of errors: each class has its entry, and every error says which."""

from __future__ import annotations

import pickle
import re

import pytest
from support.repository import ROOT

from graphshard import errors

PAGE = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
KINDS = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.GraphshardError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.GraphshardError])
def test_an_error_names_its_entry(kind: type[errors.GraphshardError]) -> None:
    for error in (kind("words"), pickle.loads(pickle.dumps(kind("words")))):
        assert str(error) == "words"
        (note,) = error.__notes__
        assert note.endswith(f"docs/refusals.md, {kind.__name__}")
    assert re.search(rf"^## {kind.__name__}$", PAGE, re.MULTILINE)


def test_a_class_of_ones_own_names_the_entry_of_its_base() -> None:
    class Mine(errors.ShardError):
        pass

    assert Mine("words").__notes__[0].endswith("ShardError")


def test_the_page_quotes_what_errors_say() -> None:
    """Each symptom stands in the source, word for word but for what differs from case to case."""
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for folder in ("graphshard", "passes", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    symptoms = re.findall(r"^\| \"([^\"]+)\"", PAGE, re.MULTILINE)
    assert len(symptoms) > 25
    wrong = [symptom for symptom in symptoms if _fixed_words(symptom) not in source]
    assert not wrong


_VARIES = r"\.\.\.|'[^']*'|\b\d\b|\b[nk]\b|train\.py[^ ]*|torch\.\S+|DistributedDataParallel|\(|\)"


def _fixed_words(symptom: str) -> str:
    """The longest part of it that is the same in every message."""
    return max(re.split(_VARIES, symptom), key=len).strip()
