"""``graphshard.init``: join the job that torchrun started, and draw the same random numbers on every rank."""

from __future__ import annotations

import os
import random
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from graphshard.ranks.interface import choose_interface
from graphshard.ranks.keepalive import keep_alive

__all__ = ["init", "meet"]


def init(backend: str | None = None) -> None:
    """Join the other processes of the job, and seed every rank as rank 0 is.

    Under ``torchrun`` this is ``torch.distributed.init_process_group``, unless that was called before; with a GPU it
    also makes the one of ``LOCAL_RANK`` the current one. Ranks on several machines meet by the interface that leads to
    rank 0, unless ``GLOO_SOCKET_IFNAME`` says another; a machine that is gone, or a cut link, is noticed within a
    minute. The generators of ``random``, NumPy and torch then go on from the state of those of rank 0, so that what a
    script draws outside of the model (initial weights, splits, negative edges) it draws alike on all ranks. Without
    ``torchrun`` nothing happens: the same script runs on one machine.

    Args:
        backend: of ``init_process_group``; by default "nccl" where there is a GPU, else "gloo".

    Example:
        >>> import graphshard
        >>> graphshard.init()
    """
    if not dist.is_available() or ("WORLD_SIZE" not in os.environ and not dist.is_initialized()):
        return
    if dist.is_initialized():
        keep_alive()  # of a script's own process group
    else:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        meet(backend or ("nccl" if torch.cuda.is_available() else "gloo"))
    state = [(random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.initial_seed())]
    dist.broadcast_object_list(state, src=0)
    python, numpy, generator, seed = state[0]
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(generator)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def meet(backend: str, timeout: timedelta | None = None) -> None:
    """Make the process group of the job that torchrun started, also with ranks on other machines.

    Args:
        backend, timeout: of ``torch.distributed.init_process_group``.

    Raises:
        GraphshardError: there is no way to rank 0.
    """
    choose_interface()
    dist.init_process_group(backend, timeout=timeout)
    keep_alive()
