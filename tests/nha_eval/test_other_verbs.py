"""Specs and folders of one verb given to another: called what they are, in one line, and left as they were."""

import pytest

from nha_eval import cli
from nha_eval.errors import UserError
from nha_eval.training.folder import training_folder

SPECS = {
    "eval": "models: [nha-tiny]\nsuites: [recall-local]\n",
    "hybridize": "base: nowhere\nalign: {tokens: 100000}\n",
    "search": "model: nha-tiny\nbudgets: [0.5]\n",
    "train": "model: nha-tiny\ntokens: 100000\n",
}
PAIRS = [(verb, other) for verb in SPECS for other in SPECS if verb != other]


def given(verb, path):
    return [verb, *(["--spec"] if verb == "search" else []), str(path)]


def error(capsys):
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def contents(folder):
    return {file: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != ".lock"}


def left_by(verb, folder):
    """A folder as `verb` leaves it, as far as others look at it."""
    folder.mkdir()
    if verb in SPECS:
        (folder / ("search.yaml" if verb == "search" else "spec.yaml")).write_text(SPECS[verb])
    (folder / "environment.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("verb", "other"), PAIRS)
def test_a_spec_of_another_verb_is_called_that(verb, other, capsys, tmp_path):
    (tmp_path / "spec.yaml").write_text(SPECS[other])
    assert cli.run(given(verb, tmp_path / "spec.yaml")) == 2
    err = error(capsys)
    assert f"is a spec of `{other}`" in err and f"or `{verb}` another" in err


@pytest.mark.parametrize("verb", SPECS)
def test_an_empty_spec_is_told_the_keys_of_its_own_verb(verb, capsys, tmp_path):
    (tmp_path / "spec.yaml").write_text("")
    assert cli.run(given(verb, tmp_path / "spec.yaml")) == 2
    err = error(capsys)
    assert "is empty" in err and f"({SPECS[verb].split(':')[0]}: ..." in err and f"`{verb} --help`" in err


@pytest.mark.parametrize("verb", ["hybridize", "search", "train"])
@pytest.mark.parametrize("command", ["report", "watch --once", "compare", "plot window-accuracy --out=x.svg"])
def test_a_run_of_another_verb_is_called_that_and_left_alone(verb, command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = left_by(verb, tmp_path / "run")
    before = contents(folder)
    assert cli.run([*command.split(), "run"]) == 2
    # `plot` draws what MQAR left.
    drawn = command.startswith("plot") and verb == "train"
    assert ("no score to draw" if drawn else f"'run' is a run of `{verb}`") in error(capsys)
    assert contents(folder) == before


@pytest.mark.parametrize("verb", ["hybridize", "search", "train", "bench"])
def test_eval_does_not_take_over_what_another_verb_left(verb, capsys, tmp_path):
    folder = left_by(verb, tmp_path / "run")
    before = contents(folder)
    ask = ["eval", "--model", "nha-tiny", "--task", "recall_needle", "--length", "256", "--no-costs"]
    assert cli.run([*ask, "--out", str(folder)]) == 2
    what = "figures of another command" if verb == "bench" else f"a run of `{verb}`"
    assert f"holds {what}: choose another folder with --out" in error(capsys)
    assert contents(folder) == before


def test_a_training_does_not_take_over_an_evaluation(tmp_path):
    folder = left_by("eval", tmp_path / "run")
    with (
        pytest.raises(UserError, match="holds a run of `eval`: give another folder with --out"),
        training_folder(folder, {"base": "x"}),
    ):
        pass


def test_settings_with_which_nothing_was_begun_are_replaced(tmp_path):
    """A spec refused for its text, say, is mended and given again."""
    with training_folder(tmp_path, {"base": "x", "text": "nowhere"}):
        pass
    with training_folder(tmp_path, {"base": "x", "text": "here"}):
        (tmp_path / "train.csv").touch()
    with (
        pytest.raises(UserError, match=r"another spec \(differs in: text\)"),
        training_folder(tmp_path, {"base": "x", "text": "new"}),
    ):
        pass


@pytest.mark.parametrize(("there", "what"), [("folder", "is a folder, but no run"), ("file", "is a file, and no run")])
def test_what_is_there_but_no_run_is_not_said_to_be_missing(there, what, capsys, tmp_path):
    place = tmp_path / "place"
    place.mkdir() if there == "folder" else place.touch()
    assert cli.run(["report", str(place)]) == 2
    assert what in error(capsys)
