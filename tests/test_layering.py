"""The architecture, enforced: the folders are its layers, and nothing imports in a circle."""

from __future__ import annotations

import importlib
import sys

import pytest
from support.repository import ROOT

from graphshard.tools import rooms

HOUSE = rooms.module_graph()


def test_no_folder_and_no_file_imports_in_a_circle() -> None:
    assert not rooms.circles(HOUSE)
    assert not rooms.circles(rooms.room_graph(HOUSE))


def test_a_circle_would_be_found() -> None:
    """By way of a third, and inside of a function: the check itself can fail."""
    planted = HOUSE.copy()
    planted.add_edge("graphshard.graph.schema", "graphshard.passes.pipeline")
    assert rooms.circles(rooms.room_graph(planted))


def test_the_package_knows_the_passes_by_few_doors() -> None:
    doors = rooms.doors(HOUSE)
    assert 0 < len(doors) <= 4
    assert len({a for a, _ in doors}) <= 2


def test_few_files_stand_in_the_hall() -> None:
    assert len(list((ROOT / "graphshard").glob("*.py"))) <= 12


def test_every_room_says_what_it_is_for() -> None:
    said = rooms.purposes()
    assert said.keys() >= set(rooms.room_graph(HOUSE))
    assert all(len(text) > 20 for text in said.values())


def test_every_folder_says_what_it_imports() -> None:
    said, rooms_found = rooms.declared(), rooms.room_graph(HOUSE)
    folders = [n for n, path in rooms.modules().items() if path.name == "__init__.py" and "." in n]
    assert said.keys() == {rooms.room_of(n) for n in folders} - {"passes", "tools"}
    assert said == {room: set(rooms_found[room]) for room in said}


def test_imports_are_absolute() -> None:
    for path in rooms.modules().values():
        assert "\nfrom ." not in path.read_text(encoding="utf-8"), path


def test_the_library_does_not_import_the_command_line() -> None:
    up = [
        (a, b)
        for a, b in HOUSE.edges
        if b.startswith("graphshard.tools") and not a.startswith("graphshard.tools")
    ]
    assert not up


def test_a_built_package_holds_every_folder() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {n for n, path in rooms.modules().items() if path.name == "__init__.py"}
    assert set(project) == folders


def test_the_folders_are_not_importable_under_another_name() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        for name in ("passes", "tools"):
            sys.modules.pop(name, None)
            with pytest.raises(ImportError, match=f"graphshard.{name}"):
                importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT))


def test_the_house_can_be_printed() -> None:
    text = rooms.report()
    assert "circle" not in text.split("doors")[0].split("floor 0")[0].split("\n")[0]
    assert "passes.exact" in text
