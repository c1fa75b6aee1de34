"""What README and docs show of the command line is there: verbs, options, `make` targets; and commands stand in sh blocks."""

import re
import shlex

import pytest
import typer
import yaml
from documented import OWN, PAGES, PROGRAMS, ROOT, blocks, commands, links, one_way, spans

from nha_eval.cli import make_app

REPLACED = yaml.safe_load((ROOT / "tests/docs/replaced.yaml").read_text())
COMMANDS = commands()


@pytest.fixture(scope="module")
def root():
    return typer.main.get_command(make_app())


def verb_of(root, words):
    """(the command that the words begin with, the rest of them)"""
    command = root
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command):
    return {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_sh_blocks(page):
    for language, text in blocks(page):
        for line in text.splitlines() if language not in ("sh", "python", "yaml") else ():
            first = line.strip().removeprefix(".venv/bin/").split(" ")[0]
            # A form with parts to be filled in is no command.
            assert first not in PROGRAMS or "[--" in line, f"{line!r} wants a block marked sh"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(OWN)])
def test_arguments_and_options_are_taken(root, command):
    leaf, words = verb_of(root, shlex.split(command)[1:])
    assert not hasattr(leaf, "commands"), f"no such verb: {command}"
    # Parsed as when it is given, and nothing run.
    leaf.make_context(leaf.name, list(words))


def test_commands_in_the_text_name_what_there_is(root):
    met = 0
    for page in PAGES:
        for span in spans(page):
            words = re.split(r"[\s=]+", one_way(span)) if span.split() and "'" not in span else []
            leaf, rest = verb_of(root, words[1:] if words[:1] == ["nha-eval"] else words)
            if leaf is root or hasattr(leaf, "commands"):
                assert words[:1] != ["nha-eval"] or rest[:1] in ([], ["--version"], ["--install-completion"], ["VERB"]), span
                continue
            met += 1
            asked = {word for word in rest if word.startswith("--")}
            assert asked <= options_of(leaf), f"{page.name}: {span}"
    assert met > 50


def test_examples_of_help_are_taken(root):
    met = 0
    for name, command in root.commands.items():
        for leaf in getattr(command, "commands", {name: command}).values():
            for example in re.findall(r"\[bold\](.*?)\[/bold\]", leaf.epilog or "", re.DOTALL):
                words = shlex.split(one_way(" ".join(example.split())))
                found, rest = verb_of(root, words[1:] if words[0] == "nha-eval" else words)
                if words[0] == "nha-eval":
                    assert found is not root, example
                    found.make_context(found.name, rest)
                    met += 1
                elif found is not root and not hasattr(found, "commands"):
                    assert {word.split("=")[0] for word in rest if word.startswith("--")} <= options_of(found), example
    assert met > 12


def test_targets_of_make_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert asked and asked <= targets


def test_nothing_is_replaced_that_is_not_documented():
    named = [command for group in REPLACED for command in group["in_place"]]
    assert len(named) == len(set(named))
    assert set(named) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in links(page):
        # Pages of commands and the list of results are made with the site.
        if not re.match(r"[a-z]+:|#|reference/commands/|results/reference/index", target):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_stand_apart_from_the_text_before(page):
    """As the site's Markdown wants it, where GitHub's does not."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^(?![-|#\s]|\d+\. ).+\n(?:- |1\. ).*", text, re.MULTILINE)
