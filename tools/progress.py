"""Progress of training, on stderr: a live line on a terminal, ten plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphshard.tools import output
from graphshard.training import Epoch, Listener

_LINES = 10


@contextmanager
def progress(title: str, epochs: int, *, show: bool = True) -> Iterator[Listener | None]:
    """What to call after each epoch; None where nothing is to be shown."""
    out = output.console(stderr=True)
    if not show:
        yield None
        return
    if not out.is_terminal:
        every = max(1, epochs // _LINES)

        def line(epoch: Epoch) -> None:
            if epoch.number % every == 0 or epoch.number in (1, epochs):
                width = len(str(epochs))
                out.print(f"{title}: epoch {epoch.number:>{width}}/{epochs}  {describe(epoch)}", soft_wrap=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as bar:
        task = bar.add_task(title, total=epochs, now="compiling")
        yield lambda epoch: bar.update(task, completed=epoch.number, now=describe(epoch))


def describe(epoch: Epoch) -> str:
    """``loss 0.0093  train 1.000  test 0.857  sent 12.3 kB``"""
    shares = "".join(f"  {split} {share:.3f}" for split, share in epoch.accuracy.items())
    sent = output.bytes_text(epoch.halo_bytes + epoch.reduce_bytes)
    return f"loss {epoch.loss:.4f}{shares}  sent {sent}"
