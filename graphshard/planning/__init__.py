"""What a run on k ranks will take, before it is run on k machines: bytes, memory and seconds of a step.

::

    data --> k parts --> halo rows and bytes, counted (exact)
                    \\--> the part with most edges, exchanging with itself --> steps, run and measured here
                    link: given, or measured between processes of this machine --> seconds of the exchanges

Where only the report of a partition is there, the part has as many nodes, halo rows and edges, joined at random.

Nothing is assumed about a machine: what is not given is measured. ``alone.py`` makes the part that needs no other,
``trial.py`` runs steps on it, ``link.py`` measures and reads speeds, ``plan.py`` puts them together.

Imports: api, capture, check, errors, graph, options, partitioning, preview, private, ranks, shard, show.
"""

from graphshard.planning.plan import Plan, Planned, plan

__all__ = ["Plan", "Planned", "plan"]
