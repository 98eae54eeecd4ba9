"""Proof of a whole training run: the user's own loop on one machine and on k ranks, compared after every step.

::

    the user's loop, one machine --> events: losses, gradients, weights, metrics --+
    the user's loop, k ranks ------> the same of each rank ------------------------+--> rows --> the first, and why

``verify.py`` runs a function, ``script.py`` a file. ``observe.py`` sees what they do: ``record.py`` has the events.
``judge.py`` compares them and ``cause.py`` says what the first difference may come from.

Imports: api, check, errors, execute, graph, options, partitioning, private, ranks, shard.
"""

from graphshard.training.report import TrainingReport
from graphshard.training.verify import verify_training

__all__ = ["TrainingReport", "verify_training"]
