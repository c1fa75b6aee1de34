"""A page for each verb of the command line, made from what `--help` says."""

import re
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from nha_eval.cli import PROGRAM, make_app

FOLDER = "reference/commands"
BOLD = re.compile(r"\[bold\](.*?)\[/bold\]", re.DOTALL)


def verbs() -> dict[str, tuple[Any, Any]]:
    """Every command by its words, as `bench op`, sorted, with a context to ask it in."""
    root = typer.main.get_command(make_app())
    found = {}

    def walk(command: Any, context: Any, words: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, type(context)(child, info_name=name, parent=context), (*words, name))
        if words and not hasattr(command, "commands"):
            found[" ".join(words)] = command, context

    walk(root, root.context_class(root, info_name=PROGRAM), ())
    return dict(sorted(found.items()))


def address(words: str) -> str:
    return f"{FOLDER}/{words.replace(' ', '-')}.md"


def page(words: str, command: Any, context: Any) -> str:
    """The page of one verb: usage, what it does, its examples, its arguments and options."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [
        f"# {PROGRAM} {words}",
        f"```text\n{usage}\n```",
        _text(command.help),
        _text(BOLD.sub(r"`\1`", command.epilog or "")),
    ]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        records = [param.get_help_record(context) for param in command.params if param.param_type_name == kind]
        rows = [(_code(names), _cell(what)) for names, what in filter(None, records)]
        parts += [f"## {title}", _table((kind, "what"), rows)] if rows else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(text: str | None) -> str:
    # As rich shows a docstring: lines of a paragraph are one, backslashes that kept rich from reading a bracket go.
    paragraphs = re.split(r"\n\s*\n", (text or "").replace("\b", "").replace("\\[", "["))
    return "\n\n".join("  \n".join(line.strip() for line in paragraph.splitlines()) for paragraph in paragraphs).strip()


def _cell(text: str | None) -> str:
    return " ".join((text or "").replace("\\[", "[").split()).replace("|", "\\|").replace("*", "\\*")


def _code(names: str) -> str:
    # A repeatable option takes one value each time.
    return "`" + re.sub(r"<list\[(.*?)\]>", r"<\1>", names).replace("|", "\\|") + "`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def on_config(config):
    """Put the verbs where the navigation says `Commands`."""
    pages = [{words: address(words)} for words in verbs()]
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference[:] = [{"Commands": pages} if entry == "Commands" else entry for entry in reference]
    return config


def on_files(files: Files, config) -> Files:
    for words, (command, context) in verbs().items():
        files.append(File.generated(config, address(words), content=page(words, command, context)))
    return files
