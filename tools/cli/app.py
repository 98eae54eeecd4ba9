"""``graphshard``: one program, a subcommand for each thing one does with a model.

Every error that the package raises on purpose is one sentence on stderr and exit code 1; wrong usage is 2.
Heavy imports are inside the commands, so that help is quick.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from graphshard.tools import output
from graphshard.tools.bench import commands as bench_commands
from graphshard.tools.cli.allocator import allocator
from graphshard.tools.cli.coverage import coverage
from graphshard.tools.cli.diff import diff
from graphshard.tools.cli.partition import partition
from graphshard.tools.cli.plan import plan
from graphshard.tools.cli.train import train
from graphshard.tools.cli.verify import verify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        from graphshard.version import __version__

        print(f"graphshard {__version__}")
        raise typer.Exit


@app.callback()
def graphshard(
    version: Annotated[  # noqa: ARG001 (its callback prints it)
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    """Exact distributed training of graph neural networks."""
    if debug:
        os.environ["GRAPHSHARD_DEBUG"] = "1"


def _one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Turn whatever a command raises into one sentence and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            output.quiet()
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            output.console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None
        except SystemExit as ended:
            output.show_signal(ended)
            raise
        except Exception as error:
            output.show_error(error)
            raise typer.Exit(1) from None

    return guarded


bench = typer.Typer(no_args_is_help=True, help="Benchmarks; each writes a JSON and a picture.")
app.add_typer(bench, name="bench")

_COMMANDS: dict[typer.Typer, tuple[Callable[..., None], ...]] = {
    app: (train, diff, verify, partition, plan, coverage, allocator),
    bench: (
        bench_commands.systems,
        bench_commands.kernels,
        bench_commands.memory,
        bench_commands.peak,
        bench_commands.scaling,
        bench_commands.partition,
        bench_commands.plan,
        bench_commands.small,
        bench_commands.border,
        bench_commands.exchange,
        bench_commands.compile,
    ),
}
_SETTINGS: dict[Callable[..., None], dict[str, Any]] = {verify: {"allow_extra_args": True}}
"""Of click's: the arguments of a script are its own."""
for _app, _commands in _COMMANDS.items():
    for _command in _commands:
        _app.command(context_settings=_SETTINGS.get(_command))(_one_sentence(_command))


def main() -> None:
    """The console script."""
    app(prog_name="graphshard")


if __name__ == "__main__":
    main()
