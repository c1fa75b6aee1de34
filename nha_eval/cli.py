"""The command line, `nha-eval VERB` or `python run_eval.py VERB`: finds the verbs and turns what they raise into one
line and an exit code.

A verb is a file in `nha_eval/verbs/` with a function `command`, or several under one name in a dict COMMANDS (`bench op`);
its name is the file's. Verbs import what is heavy inside that function, so that `--help` answers at once.
"""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from nha_eval import verbs
from nha_eval.errors import INTERRUPTED, MACHINE, WRONG_INPUT, MachineError, UserError, is_disk_trouble, one_line, printable
from nha_eval.interrupts import Interrupted, interruptible

PROGRAM = "nha-eval"
LONGEST = 700  # characters of a message: a name of thousands would hide what is wrong with it


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


def _paragraphs(command: Callable[..., int]) -> str:
    """Its docstring with each paragraph on a line of its own: typer keeps the breaks of the source, wherever they fall."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.getdoc(command).split("\n\n"))


def make_app() -> typer.Typer:
    """The typer application, with every verb that lies in `nha_eval/verbs/`."""
    app = typer.Typer(
        name=PROGRAM,
        help="Native Hybrid Attention, measured: how wide a window each layer needs, what accuracy it costs, what it saves.",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="[bold]eval quickstart[/bold] runs the quick evaluation; [bold]VERB --help[/bold] shows an example of each.",
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
        ] = False,
    ) -> None:
        pass

    for module in sorted(found.name for found in pkgutil.iter_modules(verbs.__path__)):
        verb = importlib.import_module(f"{verbs.__name__}.{module}")
        if hasattr(verb, "COMMANDS"):
            group = typer.Typer(name=module, help=verb.HELP, no_args_is_help=True, rich_markup_mode="rich")
            for name, command in verb.COMMANDS.items():
                group.command(name=name, help=_paragraphs(command), epilog=verb.EXAMPLES[name])(command)
            app.add_typer(group)
        else:
            app.command(name=module, help=_paragraphs(verb.command), epilog=getattr(verb, "EXAMPLE", None))(verb.command)
    return app


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; a user's mistake is one line on stderr."""
    try:
        with interruptible():
            outcome = typer.main.get_command(make_app()).main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (UserError, MachineError) as problem:
        return _complain(str(problem), problem.exit_code)
    except (Interrupted, KeyboardInterrupt) as stopped:
        how = f" ({stopped})" if str(stopped) else ""
        print(f"stopped{how}; finished cells are kept: give the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left early, as `head` does. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if hasattr(problem, "format_message"):
            context = getattr(problem, "ctx", None)
            path = context.command_path if context else PROGRAM
            message = " ".join(problem.format_message().split())
            return _complain(
                f"{message.rstrip('.')}; `{path} --help` shows what there is"
                if message
                else f"`{path} --help` shows what there is"
            )
        if is_disk_trouble(problem):
            return _complain(one_line(problem), MACHINE)
        raise


def _complain(message: str, code: int = WRONG_INPUT) -> int:
    print(f"error: {printable(message, LONGEST)}", file=sys.stderr)
    return code


def main() -> None:
    """The installed program."""
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that are no text; written back as they came it still names its file.
        stream.reconfigure(errors="surrogateescape" if stream is sys.stdout else "backslashreplace")
    if "JPY_PARENT_PID" in os.environ:
        # A notebook's `!` gives a terminal, whose output the page cannot move about in: rich then writes plain lines.
        os.environ.setdefault("TTY_COMPATIBLE", "0")
    code = run()
    if code == INTERRUPTED:
        # Taking torch down in order takes longer than somebody who pressed Ctrl-C should wait.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
