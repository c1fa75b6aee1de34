"""Settings of windows by name: the three forms, what is refused, the windows that a model's layers get, files."""

from pathlib import Path

import pytest
import yaml

from nha_eval.errors import UserError
from nha_eval.window_settings import (
    MOST,
    check_settings,
    gather,
    parse_setting,
    parse_window_or_name,
    read_settings,
    resolve,
    widest,
    write_settings,
)

NHA3 = (0, 0, 0)
# A layer with a window from 0, one with a window from 1, one without any.
MIXED = (0, 1, None)


def refusal(call, *arguments):
    with pytest.raises(UserError) as told:
        call(*arguments)
    text = str(told.value)
    assert "\n" not in text and ("wanted" in text or "give" in text or "keep" in text), text
    return text


@pytest.mark.parametrize(
    ("form", "least", "windows"),
    [
        ([64, "full", "16"], NHA3, (64, "full", 16)),
        ([64, "FULL", " none "], MIXED, (64, "full", "none")),
        ({"window": 64}, NHA3, (64, 64, 64)),
        ({"window": "64", "full": [2, 0]}, NHA3, ("full", 64, "full")),
        ({"window": 64, "full": [1]}, MIXED, (64, "full", "none")),
        ({"window": "full"}, MIXED, ("full", "full", "none")),
        ({"window": 8, "full": None}, NHA3, (8, 8, 8)),
        ({"windows": {16: [2], "full": [0, 1]}}, NHA3, ("full", "full", 16)),
        ({"windows": {"16": [1], 0: [0], "none": [2]}}, MIXED, (0, 16, "none")),
    ],
)
def test_each_form_gives_every_layer_its_window(form, least, windows):
    assert resolve("s", parse_setting("s", form), least, "m") == windows
    # What a run's spec.yaml holds is read again as it was meant.
    kept = yaml.safe_load(yaml.safe_dump(parse_setting("s", form)))
    assert resolve("s", parse_setting("s", kept), least, "m") == windows


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ([], "'s' has 0 windows"),
        ([1] * 10_001, "'s' has 10001 windows"),
        ([64, -1], "layer 1 is -1: wanted is an integer >= 0"),
        ([64, None], "layer 1 is None: wanted"),
        ([True], "layer 0 is True: wanted"),
        ([5.0], "layer 0 is 5.0: wanted"),
        ([MOST + 1], f"at most {MOST}"),
        (["own"], "layer 0 is 'own': wanted"),
        (64, "'s' is 64: wanted is [64, full, ...]"),
        ("64,full", "'s' is '64,full': wanted"),
        ({}, "'s' is {}: wanted"),
        ({"full": [1]}, "wanted is [64, full, ...]"),
        ({"window": 64, "fulll": [1]}, "wanted is [64, full, ...]"),
        ({"window": "none"}, "`window` is 'none': wanted is an integer >= 0 (tokens), or full"),
        ({"window": [64]}, "`window` is [64]: wanted"),
        ({"window": 64, "full": 7}, "'full' is 7: wanted is a list of layers"),
        ({"window": 64, "full": [-1]}, "'full' is [-1]: wanted is a list of layers"),
        ({"window": 64, "full": [True]}, "'full' is [True]: wanted"),
        ({"window": 64, "full": ["1"]}, "'full' is ['1']: wanted"),
        ({"window": 64, "full": [10_000]}, "wanted is a list of layers"),
        ({"window": 64, "full": [1, 1]}, "names a layer twice"),
        ({"windows": []}, "wanted is [64, full, ...]"),
        ({"windows": {}}, "lacks layer 0"),
        ({"windows": {16: [0, 2]}}, "lacks layer 1"),
        ({"windows": {16: [0, 1], "full": [1]}}, "names layer 1 under two windows"),
        ({"windows": {"wide": []}}, "a window is 'wide': wanted"),
        ({"windows": {16: 0}}, "'16' is 0: wanted is a list of layers"),
    ],
)
def test_what_is_no_setting(form, told):
    text = refusal(parse_setting, "s", form)
    assert told in text and "'s'" in text


@pytest.mark.parametrize("name", ["searched", "a", "A-b_c9", "x" * 60, "searched-25pct", "T", "none-at-all"])
def test_names(name):
    assert check_settings({name: [64]}) == {name: [64]}
    assert parse_window_or_name(f" {name} ") == name


@pytest.mark.parametrize(
    "name",
    [
        *("full", "None", "OWN", "", "64", "6x", "-x", "_x", "x" * 61, "a b", "a/b", "a.yaml", "..", "~", "a:b", "a,b", "é"),
        *("a\n", "a\0", 5, None, True, 1.5),
    ],
)
def test_what_is_no_name(name):
    assert "wanted as its name" in refusal(check_settings, {name: [64]})


@pytest.mark.parametrize(
    ("form", "least", "told"),
    [
        ([64, 64], NHA3, "'s' has 2 windows, and m has 3 layers"),
        ([64, 64, 64, 64], MIXED, "has 4 windows, and m has 3 layers"),
        ({"window": 64, "full": [3]}, NHA3, "names layer 3, and m has 3 layers: give 0 to 2"),
        ([64, 64, 64], MIXED, "gives layer 2 of m the window 64; its mixer has none"),
        ([64, 64, "full"], MIXED, "gives layer 2 of m the window full; its mixer has none"),
        ({"window": 64, "full": [2]}, MIXED, "gives layer 2 of m the window full; its mixer has none"),
        ([64, "none", "none"], MIXED, "says none for layer 1 of m, which has a window"),
        ([0, 0, "none"], MIXED, "gives layer 1 of m the window 0: wanted are at least 1 tokens"),
        ({"window": 0}, MIXED, "gives layer 1 of m the window 0: wanted are at least 1 tokens"),
        ({"window": 64}, None, "how many layers m has is not known"),
    ],
)
def test_what_does_not_fit_a_model(form, least, told):
    assert told in refusal(resolve, "s", parse_setting("s", form), least, "m")


def test_a_list_waits_for_a_model_whose_layers_are_not_known():
    assert resolve("s", [64, "full"], None, "m") == (64, "full")


def test_the_widest_window_short_of_full():
    assert widest([64, "full", 16, "none"]) == 64
    assert widest(["full", "none"]) is None


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "made" / "settings.yaml"
    many = [64] * 200
    # Names that YAML would otherwise take for something else.
    written = {"searched": [64, "full", "none"], "on": {"window": 64, "full": [7, 18]}, "Null": many}
    write_settings(path, {**written, "by-window": {"windows": {16: [0], "full": [1]}}})
    assert read_settings(path) == {**written, "by-window": [16, "full"]}
    assert len(path.read_text().splitlines()) == 4
    assert yaml.safe_load(path.read_text())["searched"] == [64, "full", "none"]
    assert "layer 0 is 'x'" in refusal(write_settings, path, {"s": ["x"]})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is not there: give a YAML file"),
        (b"", "settings are None: wanted is a mapping"),
        (b"- a\n", "wanted is a mapping"),
        (b"a: [64\n", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: [64]\na: [16]\n", "the key 'a' is given twice"),
        (b"a: !!python/object/apply:os.system [exit]\n", "not YAML"),
        (b"a: [64]\nb: [wide]\n", "setting 'b': layer 0 is 'wide'"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, text, told):
    path = tmp_path / "settings.yaml"
    if text is not None:
        path.write_bytes(text)
    assert told in refusal(read_settings, path)
    assert str(path) in refusal(read_settings, path)


def test_a_folder_and_places_that_are_none(tmp_path):
    assert "is a folder" in refusal(read_settings, tmp_path)
    assert "settings is empty" in refusal(read_settings, "")
    assert "character that no file's name can have" in refusal(read_settings, "a\0b")


def test_mappings_and_files_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_settings(Path("one.yaml"), {"a": [1], "b": [2]})
    assert gather(["one.yaml", {"c": [3], "b": [2]}], "spec.yaml") == {"a": [1], "b": [2], "c": [3]}
    assert gather("one.yaml", "spec.yaml") == {"a": [1], "b": [2]}
    assert "spec.yaml: the setting 'b' is given twice" in refusal(gather, ["one.yaml", {"b": [3]}], "spec.yaml")
    assert "spec.yaml: settings are 5: wanted" in refusal(gather, ["one.yaml", 5], "spec.yaml")
