"""`prefetch`: what is brought, what is said of it, that nothing comes twice; packages, the hub and its models are stand-ins."""

import errno
import hashlib
import json
import shutil
import socket
import time

import datasets
import hub_docs
import pytest
from huggingface_hub import constants
from tiny_lm import make_model, make_tokenizer

from models.assets import Asset
from nha_eval import cli, fetching, hub, prefetching
from nha_eval.errors import DATA_MISSING, DONE, MACHINE, WRONG_INPUT, UserError
from nha_eval.prefetching import prefetch
from nha_eval.text.documents import Document
from tasks.suites import TaskInfo, suite_tasks


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub that answers, whose data sets are the small ones of these tests; gives back the list of what was downloaded."""
    real, downloads, cache = datasets.load_dataset, [], set()
    rows = {f"hazyresearch/{name}": docs for name, docs in (("based-fda", hub_docs.FDA), ("based_drop", hub_docs.DROP))}
    rows["allenai/ai2_arc"] = [{"question": "What?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]

    def load(path, name=None, split=None, **_):
        if path in ("json", "text"):
            return real(path, name, split=split, **_)
        if path not in rows:
            raise FileNotFoundError(f"Dataset {path!r} doesn't exist on the hub")
        if (path, name) not in cache:
            if datasets.config.HF_HUB_OFFLINE:
                raise ConnectionError(f"offline, and {path} is not cached")
            downloads.append((path, name))
            cache.add((path, name))
        file = hub_docs.write(tmp_path / "hub" / f"{path.replace('/', '--')}.jsonl", rows[path])
        whole = real("json", data_files=file, split="train", cache_dir=str(tmp_path / "cached"))
        return whole if split else datasets.DatasetDict({"train": whole, "validation": whole, "test": whole})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda: (True, "here"))
    return downloads


def suites_of(monkeypatch, *tasks):
    monkeypatch.setattr(prefetching, "known_suites", lambda: {"some": list(tasks)})


def info(name):
    return next(task for suite in ("recall", "commonsense", "ruler") for task in suite_tasks(suite) if task.name == name)


def test_the_hubs_data_is_fetched_once(monkeypatch, online):
    suites_of(monkeypatch, *map(info, ("recall_pla_fda", "recall_pla_drop", "recall_pla_swde", "arc_easy", "arc_challenge")))
    first = {row.wanted_by: row for row in prefetch(["some"])}
    assert {name: row.status for name, row in first.items()} == {
        **dict.fromkeys(["recall_pla_fda", "recall_pla_drop", "arc_easy", "arc_challenge"], "fetched"),
        "recall_pla_swde": "unavailable",
    }
    assert prefetching.exit_code(list(first.values())) == DATA_MISSING
    assert "doesn't exist on the hub" in first["recall_pla_swde"].reason
    fda = first["recall_pla_fda"]
    assert (fda.what, fda.source) == ("hazyresearch/based-fda", f"{constants.ENDPOINT}/datasets/hazyresearch/based-fda")
    assert fda.bytes > 100 and fda.checksum.startswith("sha256:") and fda.checksum != first["recall_pla_drop"].checksum
    assert len(online) == 4 and {name for path, name in online if path == "allenai/ai2_arc"} == {"ARC-Easy", "ARC-Challenge"}

    again = {row.wanted_by: row for row in prefetch(["some"])}
    assert len(online) == 4
    for name, row in first.items():
        if row.status == "fetched":
            assert (again[name].status, again[name].checksum, again[name].bytes) == ("there", row.checksum, row.bytes)
    suites_of(monkeypatch, info("recall_pla_fda"))
    assert prefetching.exit_code(prefetch(["some"])) == DONE
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_silent_hub_is_asked_once_for_5_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        suites_of(monkeypatch, *map(info, ("recall_pla_fda", "recall_pla_nq", "ruler_qa_1")))
        real, waits = hub.reachable, []

        def reachable():
            began = time.monotonic()
            found = real()
            waits.append(time.monotonic() - began)
            return found

        monkeypatch.setattr(hub, "reachable", reachable)
        rows = prefetch(["some"], ["nobody/has-this"])
    assert len(waits) == 1 and waits[0] < hub.PATIENCE + 1
    assert [row.status for row in rows] == ["unavailable"] * 6
    assert all("no answer within 5 s" in row.reason for row in rows)
    assert "--data ruler_squad=PATH" in rows[-1].reason and rows[-1].licence == "CC BY-SA 4.0"


def test_offline_is_respected_and_local_data_is_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hub, "ask", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    paths = hub_docs.write_all(tmp_path / "given")
    flags = [f"--data={name}={paths[name]}" for name in ("essays", "ruler_squad", "hotpotqa")]
    assert cli.run(["prefetch", "ruler", *flags[:2]]) == DATA_MISSING
    out = capsys.readouterr().out
    assert "unavailable  hotpotqa/hotpot_qa: licence CC BY-SA 4.0" in out and "HF_HUB_OFFLINE is set" in out
    assert cli.run(["prefetch", "ruler", *flags, "--json"]) == DONE
    rows = json.loads(capsys.readouterr().out)["assets"]
    assert [(row["what"], row["status"], row["source"]) for row in rows] == [
        (name, "there", paths[name]) for name in ("essays", "ruler_squad", "hotpotqa")
    ]
    assert all(row["bytes"] > 100 and row["checksum"].startswith("sha256:") for row in rows)
    assert cli.run(["prefetch", "ruler-local"]) == DONE
    assert "nothing to bring" in capsys.readouterr().out


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An asset whose file lies in the cache's downloads, and a suite of one task that needs it."""
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "downloads").mkdir(parents=True)
    (tmp_path / "cache" / "downloads" / "tiny.bin").write_bytes(b"tiny")
    unpacked = []

    def unpack(file, folder):
        unpacked.append(file)
        (folder / "content").write_bytes(file.read_bytes() * 100)

    asset = Asset("tiny", "tiny==1", "tiny.bin", ("downloads",), "MIT", 4, 1, hashlib.sha256(b"tiny").hexdigest(), unpack)
    for module in (fetching, prefetching):
        monkeypatch.setattr(module, "known_assets", lambda: {"tiny": asset})
    suites_of(
        monkeypatch,
        TaskInfo("task", "some", False, (), "p", "1", ("tiny",)),
        TaskInfo("b", "some", False, (), "p", "1", ("tiny",)),
    )
    return unpacked


def test_packages_are_unpacked_once(package):
    (row,) = prefetch(["some"])
    assert (row.what, row.wanted_by, row.source, row.licence) == ("tiny", "task, b", "package index: tiny==1", "MIT")
    assert row.status == "fetched" and row.bytes > 400 and row.checksum == f"sha256:{hashlib.sha256(b'tiny').hexdigest()}"
    assert prefetch(["some"])[0].status == "there" and len(package) == 1


def test_a_package_that_is_not_what_was_published_is_unavailable(package, tmp_path):
    (tmp_path / "cache" / "downloads" / "tiny.bin").write_bytes(b"tinx")
    (row,) = prefetch(["some"])
    assert row.status == "unavailable" and "is not the file that was published" in row.reason and row.bytes is None
    assert package == []


def test_a_full_disk_ends_it(package, monkeypatch, capsys):
    def full(name):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("models.assets._need_room", lambda *_: full(""))
    assert cli.run(["prefetch", "some"]) == MACHINE
    assert "free some space" in capsys.readouterr().err


def test_models(monkeypatch, tmp_path, capsys):
    suites_of(monkeypatch)
    folder = tmp_path / "models--org--tiny" / "snapshots" / ("0" * 40)
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(prefetching, "known_suites", lambda: {"some": [TaskInfo("task", "some", False, (), "p", "1", ())]})
    rows = prefetch(["some"], ["org/tiny", f"nha:{folder}", str(folder), "nha-tiny", "org/other"])
    assert [row.status for row in rows] == ["there"] * 4 + ["unavailable"]
    assert rows[0].checksum == "revision:" + "0" * 40 and rows[0].bytes == rows[2].bytes > 1000
    assert rows[3].source == "made from its settings" and "HF_HUB_OFFLINE is set" in rows[4].reason
    # Half a checkpoint is not there.
    (folder / "model.safetensors").unlink()
    assert prefetch(["some"], ["org/tiny"])[0].status == "unavailable"


def test_a_model_of_the_hub_is_fetched_with_its_tokenizer(monkeypatch, tmp_path):
    folder = tmp_path / "models--org--tiny" / "snapshots" / ("1" * 40)

    def fetch(name):
        make_model().save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    monkeypatch.setattr(prefetching, "known_suites", lambda: {"some": [TaskInfo("task", "some", False, (), "p", "1", ())]})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda: (True, "here"))
    monkeypatch.setattr(hub, "find_model", lambda name: ("1" * 40, folder / "config.json"))
    monkeypatch.setattr("models.hub.hub_folder", fetch)
    (row,) = prefetch(["some"], ["swa:org/tiny"])
    assert (row.what, row.wanted_by, row.status) == ("org/tiny", "swa:org/tiny", "fetched")
    assert row.checksum == "revision:" + "1" * 40 and (folder / "tokenizer.json").is_file()
    assert row.source == f"{constants.ENDPOINT}/org/tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ruler-loca"], "no such suite: 'ruler-loca'; did you mean 'ruler-local'"),
        (["recall", "ruller"], "no such suite: 'ruller'; did you mean 'ruler'"),
        ([], "Missing argument"),
        (["ruler-local", "--model", "nha-tini"], "no such model: 'nha-tini'; did you mean 'nha-tiny'"),
        (["ruler-local", "--model", "./nowhere"], "no such checkpoint folder: './nowhere'"),
        (["ruler", "--data", "esays=x.txt"], "no task reads data named 'esays'; did you mean 'essays'"),
        (["ruler", "--data", "essays=nowhere.txt"], "--data essays=nowhere.txt: no such data"),
        (["ruler", "--data", "a", "--data", "b"], "--data: data 'b': the folder is 'a' already"),
        (["ruler", "--jsn"], "--json"),
        (["x" * 10_000], "no such suite: 'xxx"),
        (["r\udcff"], "no such suite: "),
        (["ruler-local", "--model", "x" * 10_000], "File name too long"),
        (["ruler-local", "--model", ""], "model is empty"),
        (["ruler-local", "--model", "a\0b"], "a character that no file's name can have"),
        (["ruler-local", "--data", "~no-such-user/x"], "nobody of that name"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["prefetch", *arguments]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and message in err


def test_training_text_is_brought_beside_suites(monkeypatch, tmp_path):
    from nha_eval.text import apt, debian

    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path))
    made = []

    def build(packages, scratch):
        made.append(scratch)
        return [Document("text " * 300, "debian", "a/b")], {"kind": "debian", "licence": "GPL-2", "packages": [], "missing": []}

    monkeypatch.setattr(debian, "build", build)
    first, second = (prefetch(["text:debian"])[0] for _ in range(2))
    assert (first.status, second.status, len(made)) == ("fetched", "there", 1)
    assert first.licence == "GPL-2" and first.bytes > 100 and first.checksum == second.checksum
    with pytest.raises(UserError, match="no such training text: 'text:debain'; did you mean 'text:debian'"):
        prefetch(["text:debain"])
    shutil.rmtree(tmp_path / "text")
    monkeypatch.undo()
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path))
    monkeypatch.setattr(apt.shutil, "which", lambda tool: None)
    (row,) = prefetch(["text:debian"])
    assert row.status == "unavailable" and "needs apt-get and dpkg-deb" in row.reason
    assert prefetching.exit_code([row]) == DATA_MISSING
