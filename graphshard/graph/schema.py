"""The node sets and edge sets of a graph, and how large they are.

::

    homogeneous     nodes ("",)                edges ("" -> "",)
    links           nodes ("",)                edges ("" -> "",), (edge_label_index: "" -> "", its own plan)
    heterogeneous   nodes (author, paper)      edges (author__writes__paper: author -> paper), ...

The sets of a homogeneous graph have no name. Edges of every set live with their destination.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MESSAGES, PAIRS = "", "pairs"
"""The plans of a node set: the halo that edges read, and the halo that pairs read."""
NUMBERS = "numbers"
"""Stands for a plan in the set of an index, whose entries each number one node: they live with it and read no halo."""


@dataclass(frozen=True)
class EdgeSet:
    """Directed pairs of nodes.

    Attributes:
        name: of the set.
        source, destination: the node sets of the two ends; of an index, whose two ends are one node, the same.
        plan: which plan of the source set fetches the sources: that of messages, or that of pairs to be scored; or
            ``NUMBERS``.
    """

    name: str = ""
    source: str = ""
    destination: str = ""
    plan: str = MESSAGES


@dataclass(frozen=True)
class Schema:
    """What kinds of nodes and edges there are; by default one of each, without a name."""

    nodes: tuple[str, ...] = ("",)
    edges: tuple[EdgeSet, ...] = (EdgeSet(),)

    def edge_set(self, name: str) -> EdgeSet:
        """The edge set of that name; KeyError where there is none."""
        found = {edge_set.name: edge_set for edge_set in self.edges}
        return found[name]

    @property
    def messages(self) -> tuple[EdgeSet, ...]:
        """The edge sets that messages run along: what a partition should not cut."""
        return tuple(e for e in self.edges if e.plan == MESSAGES)

    def plans(self, nodes: str) -> tuple[str, ...]:
        """The plans of a node set; every set has one for messages."""
        pairs = any(e.source == nodes and e.plan == PAIRS for e in self.edges)
        return (MESSAGES, PAIRS) if pairs else (MESSAGES,)

    @property
    def homogeneous(self) -> bool:
        """Whether there is one node set only, without a name."""
        return self.nodes == ("",)


@dataclass(frozen=True)
class Sizes:
    """How many rows each set has, by name; and of examples, rows that another program made."""

    nodes: Mapping[str, int]
    edges: Mapping[str, int]
    given: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, int], ...]:
        """The sizes as a tuple, which can be hashed."""
        return (*self.nodes.items(), ("", -1), *self.edges.items())
