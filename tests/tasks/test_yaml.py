"""Every task YAML there is, through lm-eval's own machinery: it loads, a gold answer scores 100 and an empty one 0."""

import sys

import hub_docs
import pytest
from lm_eval.tasks import TaskManager

from tasks import TASKS_PATH, suites
from tasks.suites import TaskInfo, lm_eval_folder, own_task, suite_names, suite_tasks
from tasks.synthetic import generator
from tasks.tokenizing import counting_with

ALL = [task for suite in suite_names() for task in suite_tasks(suite)]
TASKS = [task for task in ALL if task.folder is None]
TAGS = list(dict.fromkeys(task.suite for task in TASKS))
LM_EVALS = [task for task in ALL if task.folder is not None]
SMALL = {"lengths": [512], "contexts": 2}


@pytest.fixture(scope="module", autouse=True)
def hub_data(tmp_path_factory):
    """Documents in the hub's schema, where the hub's would be read."""
    SMALL["data"] = hub_docs.write_all(tmp_path_factory.mktemp("hub"))
    with counting_with(hub_docs.word_tokenizer()):
        yield
    del SMALL["data"]


def load(name: str, metadata: dict = SMALL):
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=metadata)
    return manager.load(name)["tasks"][name]


def small(info: TaskInfo) -> dict:
    """Metadata for a few documents of the task, at the shortest length that it takes."""
    return {**SMALL, "lengths": [max(512, info.least_length)]}


def prompt(task, doc: dict) -> str:
    return task.fewshot_context(doc, task.config.num_fewshot or 0)


@pytest.mark.parametrize("info", TASKS, ids=lambda info: info.name)
def test_gold_scores_100_and_empty_0(small_data, info: TaskInfo):
    task = load(info.name, small(info))
    docs = list(task.test_docs())
    assert docs
    for doc in docs:
        assert doc["context_id"]
        if task.OUTPUT_TYPE == "generate_until":
            gold = task.process_results(doc, [task.doc_to_target(doc) + ", and so on"])
            empty = task.process_results(doc, [""])
        else:
            right = [(-1.0 if i == doc["gold"] else -1000.0, False) for i in range(len(doc["choices"]))]
            wrong = [(-1000.0 if i == doc["gold"] else -1.0, False) for i in range(len(doc["choices"]))]
            gold, empty = task.process_results(doc, right), task.process_results(doc, wrong)
        assert set(gold.values()) == {1.0}
        assert set(empty.values()) == {0.0}
        assert set(gold) == set(task.aggregation())


@pytest.mark.parametrize("info", TASKS, ids=lambda info: info.name)
def test_what_the_suite_says_is_what_lm_eval_loads(small_data, info: TaskInfo):
    task = load(info.name, small(info))
    assert str(task.VERSION) == info.version
    assert task.config.metadata["protocol"] == info.protocol
    named = {"recall": "pla", "recall-twice": "pla-twice", "ruler": "ruler, own words", "ruler-local": "ruler, own words"}
    assert info.protocol == named.get(info.suite, info.suite)
    assert info.name.startswith(("recall_", "commonsense_", "ruler_"))
    assert info.has_lengths == bool(info.default_lengths) == info.name.startswith(("recall_", "ruler_"))


@pytest.mark.parametrize("suite", TAGS)
def test_a_suite_is_an_lm_eval_tag(small_data, suite):
    metadata = small(max(suite_tasks(suite), key=lambda info: info.least_length))
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=metadata)
    assert sorted(manager.load(suite)["tasks"]) == [info.name for info in suite_tasks(suite)]


@pytest.mark.parametrize("name", [info.name for info in TASKS if info.name.endswith("shot")])
def test_few_shot_prefix_is_long_shared_and_not_evaluated(small_data, name):
    task = load(name)
    docs = list(task.test_docs())
    prefixes = {prompt(task, doc).removesuffix(task.doc_to_text(doc)) for doc in docs}
    assert len(prefixes) == 1
    prefix = prefixes.pop()
    shots = list(task.fewshot_docs())
    assert len(shots) == task.config.num_fewshot == int(name.rsplit("_", 1)[1].removesuffix("shot"))
    for shot in shots:
        assert f"{task.doc_to_text(shot)} {shot['choices'][shot['gold']]}\n\n" in prefix
    assert not {shot["context_id"] for shot in shots} & {doc["context_id"] for doc in docs}


@pytest.mark.parametrize("info", LM_EVALS, ids=lambda info: info.name)
def test_lm_evals_own_tasks_are_where_the_suites_say(info: TaskInfo):
    """Version and data as lm-eval has them, from its index of that folder and, for a task in Python, from its class."""
    manager = TaskManager(include_path=str(lm_eval_folder() / info.folder), include_defaults=False)
    configs = {name: manager._factory._load_full_config(entry) for name, entry in manager.task_index.items() if entry.yaml_path}
    config = configs[info.name]
    cls = config.get("class")
    version = cls.VERSION if cls else config["metadata"]["version"]
    # A group's data is that of its tasks.
    of_group = {other["dataset_path"] for other in configs.values() if "dataset_path" in other} if "group" in config else set()
    hub_id = cls.DATASET_PATH if cls else of_group.pop() if of_group else config["dataset_path"]
    assert (str(version), hub_id) == (info.version, info.sources[0][1])
    assert not of_group
    assert own_task(info.name) == next(task for task in LM_EVALS if task.name == info.name)


def test_a_task_that_lm_eval_has_elsewhere_is_left_to_its_index(monkeypatch, tmp_path):
    monkeypatch.setattr(suites, "lm_eval_folder", lambda: tmp_path)
    for info in [*suite_tasks("commonsense"), *suite_tasks("recall-lmeval")]:
        assert (info.folder, info.sources, info.protocol) == (None, (), "lmeval")


def test_a_group_names_its_members_for_plain_lm_eval():
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False)
    groups = {suite for suite in suite_names() if suite not in TAGS}
    assert set(manager.all_groups) == groups and groups >= {"commonsense", "recall-lmeval"}
    for suite in groups:
        listed = [item if isinstance(item, str) else item["group"] for item in manager.task_index[suite].cfg["task"]]
        assert sorted(listed) == [info.name for info in suite_tasks(suite)]


def test_no_suite_mixes_protocols():
    for suite in suite_names():
        assert len({info.protocol for info in suite_tasks(suite)}) == 1, suite


def test_lengths_come_from_lm_evals_metadata():
    docs = load("recall_needle", {"lengths": [256, 1024], "contexts": 1, "seed": 5, "pretrained": "anything"}).test_docs()
    assert sorted({doc["length"] for doc in docs}) == [256, 1024]


def test_unknown_suite_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'recall-local'"):
        suite_tasks("recall-locl")


def test_listing_suites_imports_nothing_heavy():
    import subprocess

    program = "import sys, tasks.suites as s; s.suite_tasks('recall-local'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "numpy", "lm_eval"} & set(modules)


def test_the_least_length_of_a_generated_task_is_its_generators():
    for task in suite_tasks("recall-local"):
        assert task.least_length == generator(task.name.removeprefix("recall_")).MIN_LENGTH
    assert all(task.least_length == 1 for task in suite_tasks("commonsense-local"))
