"""Progress of training, on stderr: a live line on a terminal, ten plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphshard.tools import output
from graphshard.tools.training.epoch import Epoch, Listener


@contextmanager
def progress(title: str, epochs: int, *, show: bool = True, lines: int = 10) -> Iterator[Listener | None]:
    """What to call after each epoch; None where nothing is to be shown.

    Args:
        title: of the run.
        epochs: how many there will be.
        show: whether to show anything.
        lines: about how many, where there is no terminal.
    """
    out = output.console(stderr=True)
    if not show:
        yield None
        return
    if not out.is_terminal:
        every = max(1, epochs // lines)

        def line(epoch: Epoch) -> None:
            if epoch.number % every == 0 or epoch.number == epochs:
                width = len(str(epochs))
                out.print(
                    f"{title}: epoch {epoch.number:>{width}}/{epochs}  {describe(epoch)}", soft_wrap=True
                )

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
        task = bar.add_task(f"{title:<10}", total=epochs, now="compiling")
        yield lambda epoch: bar.update(task, completed=epoch.number, now=describe(epoch))


def describe(epoch: Epoch) -> str:
    """``loss 0.0093  train 1.000  test 0.857  sent 12.3 kB``"""
    shares = "".join(f"  {split} {share:.3f}" for split, share in epoch.accuracy.items())
    sent = output.bytes_text(epoch.halo_bytes + epoch.reduce_bytes)
    return f"loss {epoch.loss:.4f}{shares}  sent {sent}"
