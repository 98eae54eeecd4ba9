"""One process of a benchmarked system; run as a script, by the Python that has the system.

Imports nothing of graphshard: the Python that has DGL has none. It is told everything on the command line, and to
run epochs through a pipe, so that several systems take turns on the same cores.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Connect, build the system, say so, and run epochs whenever told to."""
    parser = argparse.ArgumentParser()
    for name in ("system", "model", "folder", "connection"):
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--adjacency", choices=("edges", "csr"), default="edges")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")  # of sparse tensors, which are as users make them
    import torch

    torch.set_num_threads(wanted.threads)
    with Connection(int(wanted.connection)) as orchestrator:
        try:
            serve(orchestrator, importlib.import_module(f"system_{wanted.system}"), wanted)
        except Exception as error:
            orchestrator.send({"error": f"{type(error).__name__}: {error}"})
            raise


def serve(orchestrator: Any, system: Any, wanted: argparse.Namespace) -> None:
    """``system.build`` gives a step: one epoch, forward, backward and Adam, which returns the loss."""
    step, sent, close = system.build(wanted.model, wanted.folder, wanted.adjacency)
    before = memory("VmRSS")
    forget_peak()
    orchestrator.send({"rank": int(os.environ.get("RANK", "0")), "before": before})
    while count := orchestrator.recv():
        seconds, loss, cpu = [], 0.0, time.process_time()
        for _ in range(count):
            start = time.perf_counter()
            loss = step()
            seconds.append(time.perf_counter() - start)
        orchestrator.send(
            {
                "seconds": seconds,
                "cpu": time.process_time() - cpu,
                "loss": loss,
                "before": before,
                "peak": memory("VmHWM"),
                "sent": sent(),
            }
        )
    close()


def memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let the peak start from here; what loading the graph took is not training's."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")


if __name__ == "__main__":
    main()
