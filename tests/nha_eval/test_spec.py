"""Specs: what is taken, what is refused, and that a refusal is one line naming the nearest known key."""

import pytest

from nha_eval.errors import UserError
from nha_eval.spec import find_spec, make_spec, read_spec, spec_names
from nha_eval.window_settings import parse_window


def check(content, **flags):
    return make_spec(content, flags, where="mine.yaml")


def test_names_may_be_singular_and_entries_bare():
    spec = check({"model": "a", "suite": "s", "window": "16,full", "length": 512, "task": ["t", {"name": "u", "limit": 3}]})
    assert [model.name for model in spec.models] == ["a"]
    assert spec.suites == ["s"]
    assert spec.windows == [16, "full"]
    assert spec.lengths == [512]
    assert [(task.name, task.limit) for task in spec.tasks] == [("t", None), ("u", 3)]


def test_a_model_can_have_windows_of_its_own():
    spec = check({"models": [{"name": "a", "windows": ["full", 16, 16]}, "b"]})
    assert spec.models[0].windows == ["full", 16]
    assert spec.models[1].windows == []


def test_flags_win_over_the_file():
    spec = check({"models": ["a"], "limit": 5, "costs": {"length": [128], "repeats": 9}}, limit=7, costs={"lengths": [64]})
    assert spec.limit == 7
    assert spec.costs.lengths == [64]
    assert spec.costs.repeats == 9


@pytest.mark.parametrize(
    ("given", "flag", "measured"),
    [(None, None, True), (None, False, False), (False, None, False), (False, True, True), ({"batch": 2}, True, True)],
)
def test_costs_are_on_unless_said_otherwise(given, flag, measured):
    content = {} if given is None else {"costs": given}
    costs = check(content, costs=flag).costs
    assert (costs is not None) == measured
    if isinstance(given, dict):
        assert costs.batch == 2


@pytest.mark.parametrize("window", [-1, "-1", "abc", 1.5, True, "16 32", ""])
def test_windows_that_are_none(window):
    with pytest.raises(ValueError, match="wanted is an integer >= 0"):
        parse_window(window)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modles": ["a"]}, "unknown key `modles`; did you mean 'models'?"),
        ({"costs": {"lenght": 3}}, "unknown key `lenght` in `costs`; did you mean 'lengths'?"),
        ({"models": [{"name": "a", "window_": 3}]}, "unknown key `window_` in `models.0`; did you mean 'windows'?"),
        ({"windows": [-1]}, "window -1: wanted is an integer >= 0"),
        ({"limit": 0}, "`limit` is 0"),
        ({"lengths": ["many"]}, "`lengths.0` is 'many'"),
        ({"device": "gpu"}, "device 'gpu': wanted is auto, cpu, cuda"),
        ({"dtype": "f32"}, "`dtype` is 'f32': wanted is 'auto', 'float32'"),
        ({"model": "a", "models": "b"}, "both `models` and `model`"),
        ({"seed": -1}, "`seed` is -1"),
        ({"batch": 2**31}, "`batch` is 2147483648: wanted is an integer from 1 to 2147483647, or auto"),
        ({"windows": [2**31]}, "window 2147483648: wanted are at most 2147483647 tokens"),
        ({"lengths": [10**400]}, "wanted is less than or equal to 2147483647"),
        ({"threads": 1025}, "`threads` is 1025: wanted is less than or equal to 1024"),
        ({"limit": True}, "`limit` is True: wanted is an integer"),
        ({"contexts": 5.0}, "`contexts` is 5.0: wanted is an integer"),
        ({"costs": {"seconds": float("nan")}}, "`costs.seconds` is nan: wanted is"),
        ({"costs": {"seconds": "5"}}, "`costs.seconds` is '5': wanted is a number"),
        ({"models": [{"nmae": "a"}]}, "unknown key `nmae` in `models.0`; did you mean 'name'?"),
        ({"models": [{"windows": 5}]}, "`models.0` lacks `name`: give one"),
        ({"windows": ","}, "`windows` is ',', which names nothing"),
        ({"out": ""}, "`out` is ''"),
        ({5: "a"}, "the key 5: keys are words"),
        ({"costs": {5: "a"}}, "the key 5 in `costs`: keys are words"),
        ({"share": "x"}, "mine.yaml: share 'x': wanted is I/N"),
        ({"telemetry": "maybe"}, "mine.yaml: `telemetry` is 'maybe': wanted is true or false"),
        ({"telemetry": 1}, "`telemetry` is 1: wanted is true or false"),
        ({"telemetri": True}, "unknown key `telemetri`; did you mean 'telemetry'?"),
        ({"data": []}, "mine.yaml: data is []: wanted is a folder"),
    ],
)
def test_refused_in_one_line(content, message):
    with pytest.raises(UserError) as refusal:
        check(content)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "this is a list"),
        ("a: [", "not YAML"),
        ("42", "this is a int"),
    ],
)
def test_files_that_are_no_specs(tmp_path, text, message):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_spec(path)


def test_a_python_object_in_yaml_is_not_made(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("models: !!python/object/apply:os.system [exit]\n")
    with pytest.raises(UserError, match="not YAML"):
        read_spec(path)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="not YAML"):
        read_spec(path)


@pytest.mark.parametrize("name", spec_names())
def test_shipped_specs_are_whole(name):
    spec = make_spec(read_spec(find_spec(name)), {}, where=name)
    assert spec.models
    assert spec.suites or spec.costs


def test_a_spec_that_is_not_there_names_the_shipped_ones():
    with pytest.raises(UserError, match="quickstart"):
        find_spec("quickstrat")


@pytest.mark.parametrize("data", [[], {}, "", [""], 5, True, ["a", 5], [["a"]]])
def test_data_that_is_no_text_or_nothing(data):
    with pytest.raises(UserError, match="wanted is a folder, or data sets as NAME=PATH"):
        make_spec({"models": ["nha-tiny"], "suites": ["recall-local"], "data": data}, {}, where="spec.yaml")


SETTINGS = {"searched": [64, "full"], "mostly-64": {"window": 64, "full": [1]}}


def test_any_list_of_windows_may_name_a_setting():
    models = [{"name": "a", "windows": "searched"}, "b"]
    extra = [{"model": "b", "windows": ["mostly-64"], "lengths": [64]}]
    spec = check({"models": models, "settings": SETTINGS, "windows": "16,searched,full", "costs": {"extra": extra}})
    assert spec.models[0].windows == ["searched"]
    assert spec.windows == [16, "searched", "full"]
    assert spec.costs.extra[0].windows == ["mostly-64"]
    assert spec.settings == SETTINGS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"windows": ["serched"], "settings": SETTINGS},
            "mine.yaml: window 'serched': no setting is called that; did you mean",
        ),
        ({"windows": ["x"], "settings": SETTINGS}, "settings: searched, mostly-64"),
        ({"models": [{"name": "a", "window": "x"}]}, "window 'x': wanted is an integer >= 0 (tokens) or 'full'"),
        ({"costs": {"extra": [{"model": "a", "windows": "x", "lengths": 5}]}}, "a name wants --settings FILE"),
        ({"windows": ["own"], "settings": SETTINGS}, "window 'own': wanted is an integer >= 0"),
        ({"settings": {"full": [64]}}, "mine.yaml: setting 'full': wanted as its name"),
        ({"settings": {"a": [-1]}}, "mine.yaml: setting 'a': layer 0 is -1: wanted"),
        ({"settings": 5}, "mine.yaml: settings are 5: wanted is a mapping"),
        ({"settings": False}, "mine.yaml: settings are False: wanted is a mapping"),
        ({"settings": "nowhere.yaml"}, "settings file 'nowhere.yaml' is not there"),
        ({"setting": {"a": [1]}, "settings": {"a": [1]}}, "both `settings` and `setting`"),
    ],
)
def test_settings_that_are_refused(content, message):
    with pytest.raises(UserError) as refusal:
        check(content)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_files_of_settings_stand_in_the_spec_itself(tmp_path):
    """So that a run's spec.yaml needs nothing else; what no window names is left out, as a file may grow."""
    path = tmp_path / "settings.yaml"
    path.write_text("searched: [16, full]\nother: [8, 8]\n")
    by_flag = check({"models": ["a"], "settings": SETTINGS}, windows=["searched"], settings=[str(path)])
    assert by_flag.deciding()["settings"] == {"searched": [16, "full"]}
    by_key = check({"models": ["a"], "windows": ["searched"], "settings": [str(path), {"more": [1]}]})
    assert by_key.deciding() == by_flag.deciding()
    assert check(by_key.deciding()).deciding() == by_key.deciding()
    assert "settings" not in check({"models": ["a"], "settings": SETTINGS}).deciding()


def test_settings_by_flag_that_nothing_names_are_refused(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("searched: [16, full]\n")
    with pytest.raises(UserError, match=r"--settings: no window names one of its settings \(searched\): add --window NAME"):
        check({"models": ["a"]}, windows=["16"], settings=[str(path)])
