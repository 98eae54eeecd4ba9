"""Why a value of a program is there: which pass made it, what for, and for which line of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from torch import fx

from graphshard.errors import DataError
from graphshard.ir.program import Stage
from graphshard.ir.reason import reason_of
from graphshard.show.names import Names, key_of
from graphshard.show.printing import render, user_line


def why(stages: Sequence[Stage], names: Names, name: str) -> str:
    """What is known of the value that a diff calls ``name``: its line, the pass that made it, and the reason.

    Raises:
        DataError: no stage has a value of that name; names those that sound like it.
    """
    lines = [{line.name: line for line in render(stage.program, names)} for stage in stages]
    found = [i for i, known in enumerate(lines) if name in known]
    if not found:
        near = get_close_matches(name, sorted(set().union(*lines) - {"return"}), n=3)
        said = f"; did you mean {', '.join(near)}?" if near else ": the diff lists their names"
        raise DataError(f"no stage of the program has a value {name!r}{said}")
    first, last = found[0], found[-1]
    line = lines[last][name]
    node = next(n for n in stages[last].program.graph.nodes if key_of(n) == line.key)
    text = [line.text(), *(f"  {fact}" for fact in _facts(stages, names, node, first))]
    if last < len(stages) - 1:
        text.append(f"  gone after {stages[last + 1].name}{_does(stages[last + 1])}")
    return "\n".join(text)


def _facts(stages: Sequence[Stage], names: Names, node: fx.Node, first: int) -> list[str]:
    if first == 0:
        return [f"the model computes it{_at(node)}"]
    facts = [f"made by {stages[first].name}{_does(stages[first])}"]
    if (reason := reason_of(node)) is not None:
        said = "".join(part if isinstance(part, str) else names.text(part) for part in reason.parts)
        last = next((p for p in reversed(reason.parts) if isinstance(p, fx.Node) and user_line(p)), node)
        return [*facts, f"because {said}{_at(last)}"]
    return [*facts, f"for what the model computes{_at(node)}"] if user_line(node) else facts


def _does(stage: Stage) -> str:
    return f": {stage.does}" if stage.does else ""


def _at(node: fx.Node) -> str:
    where = user_line(node)
    return f"; {where}" if where else ""
