"""The code that pages show does what they say: README, the operator's page, and the mixer and the task of the how-tos."""

import re

import pytest
import torch
from documented import ROOT, blocks
from lm_eval.tasks import TaskManager
from tiny_lm import make_model, make_tokenizer

from models import mixers
from nha_eval.doctor.mixers import examine_mixer

pytestmark = pytest.mark.usefixtures("one_thread")
TITLE = re.compile(r'^```\S+ title="(.+?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def block(page, language="python", number=0):
    return [text for kind, text in blocks(ROOT / page) if kind == language][number]


def files(page):
    """What a page shows as files, by path."""
    return dict(TITLE.findall((ROOT / page).read_text(encoding="utf-8")))


def test_the_operators_page_defines_the_operator():
    torch.manual_seed(0)
    exec(block("docs/explanation/operator.md"), {})


def test_the_readmes_code(tmp_path, monkeypatch):
    make_model(num_hidden_layers=24, hidden_size=32, intermediate_size=48).save_pretrained(tmp_path / "path/to/llama")
    make_tokenizer().save_pretrained(tmp_path / "path/to/llama")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("README.md"), names)
    assert names["out"].shape == (1, 300, 8, 64)
    assert [i for i, window in enumerate(names["model"].config.windows) if window is None] == [7, 18, 20, 23]


def test_the_mixer_of_its_page_is_right(tmp_path, monkeypatch):
    ((path, text),) = files("docs/how-to/add-a-mixer.md").items()
    name = path.removeprefix("models/mixers/").removesuffix(".py")
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(mixers, "__path__", [*mixers.__path__, str(tmp_path)])
    mixers.mixer_names.cache_clear()
    try:
        result = examine_mixer(name, torch.device("cpu"))
    finally:
        mixers.mixer_names.cache_clear()
    assert result.verdict == "passed" and {finding.check for finding in result.findings} >= {"kernel", "gradients", "steps"}


def test_the_task_of_its_page_is_asked(tmp_path):
    for path, text in files("docs/how-to/add-a-task.md").items():
        (tmp_path / path.rpartition("/")[2]).write_text(text)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    (task,) = manager.load(["commonsense-mine"])["tasks"].values()
    document = task.test_docs()[0]
    assert task.doc_to_text(document) == "The capital of France is"
    choices = task.doc_to_choice(document)
    likely = [(-1.0 if city == "Paris" else -2.0, False) for city in choices]
    assert task.process_results(document, likely)["acc"] == 1
