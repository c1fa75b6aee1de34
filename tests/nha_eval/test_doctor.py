"""Doctor: a verdict and an exit code whatever a check does, and a mixer that is made wrong in each way is found out."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from few_configurations import few_configurations  # noqa: F401 (a fixture)

from models.mixers import gla as gla_mixer
from models.mixers import mixer_names
from nha_eval import cli, doctor
from nha_eval.doctor import machine
from nha_eval.doctor.missing import missing
from nha_eval.doctor.mixers import Finding, Result, examine_mixer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Verdicts go into the test's own folder."""
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch):
    """Mixers are not tried: each has what is asked for by its name here, else nothing wrong."""
    results: dict[str, Result] = {}
    monkeypatch.setattr("nha_eval.doctor.mixers.examine_mixer", lambda name, device: results.get(name, Result(name, "x", 0.1)))
    return results


def only(*findings):
    return [("thing", lambda: iter(findings))]


def statuses(result):
    return {name: finding.status for name, finding in result.worst().items()}


def test_verdicts_on_the_machine(capsys, quick):
    assert doctor.examine(checks=only(("ok", "fine"), ("note", "far"))) == 0
    assert "all is well" in capsys.readouterr().out
    assert doctor.examine(checks=only(("ok", "fine"), ("bad", "broken"))) == 1
    assert "needs mending (thing)" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_finding():
    def breaks():
        raise RuntimeError("surprise")
        yield

    found = list(machine.look([("first", breaks), *only(("ok", "still asked"))]))
    assert found == [("first", "bad", "RuntimeError: surprise"), ("thing", "ok", "still asked")]


def test_this_machine():
    found = list(machine.look([(name, check) for name, check in machine.checks() if name != "disk"]))
    assert {name for name, _, _ in found} == {name for name, _ in machine.checks()} - {"disk"}
    assert not [text for _, state, text in found if state == "bad"]


@pytest.mark.parametrize("name", mixer_names())
def test_every_mixer_is_right_here(name):
    result = examine_mixer(name, CPU)
    assert set(statuses(result).items()) == {(c, "ok") for c in ("kernel", "gradients", "split", "steps", "batch")}
    assert all(0 < finding.error < finding.bound for finding in result.findings)
    assert result.verdict == "passed"


@pytest.mark.gpu
@pytest.mark.usefixtures("few_configurations")
@pytest.mark.parametrize("name", mixer_names())
def test_every_mixer_is_right_on_a_gpu(name):
    result = examine_mixer(name, torch.device("cuda:0"))
    assert not [finding.words() for finding in result.findings if finding.status == "failed"]


def test_a_kernel_a_thousandth_off(monkeypatch, capsys):
    import kernels.gla

    right = kernels.gla.chunked

    def wrong(*arguments, **settings):
        out, state = right(*arguments, **settings)
        return out + 0.001 * out.roll(1, -1), state

    monkeypatch.setattr(kernels.gla, "chunked", wrong)
    assert doctor.examine(["gla"], device="cpu") == 1
    shown = capsys.readouterr().out
    assert re.search(r"failed gla: kernel \(float32\): error \d\.\de-0[34], bound 1e-05", shown)
    assert "needs mending (gla)" in shown


def test_a_gradient_that_is_wrong_alone(monkeypatch):
    import kernels.gla

    right = kernels.gla.chunked
    doubled = lambda q, k, v, g, **more: right(q, k, v, 2 * g - g.detach(), **more)  # noqa: E731
    monkeypatch.setattr(kernels.gla, "chunked", doubled)
    result = examine_mixer("gla", CPU)
    assert statuses(result) == {"kernel": "ok", "gradients": "failed", "split": "ok", "steps": "ok", "batch": "ok"}
    assert result.worst()["gradients"].error == pytest.approx(1.0, rel=0.5)


def test_a_state_that_is_not_handed_on_whole(monkeypatch):
    right = gla_mixer.gla_attention

    def forgetful(*arguments, state=None, **more):
        return right(*arguments, state=None if state is None else 0.99 * state, **more)

    monkeypatch.setattr(gla_mixer, "gla_attention", forgetful)
    found = statuses(examine_mixer("gla", CPU))
    assert found == {"kernel": "ok", "gradients": "ok", "split": "failed", "steps": "failed", "batch": "ok"}


def test_pads_that_enter_the_state(monkeypatch):
    right = gla_mixer.Mixer.forward
    heedless = lambda self, x, batch, cache=None: right(self, x, replace(batch, valid=None), cache)  # noqa: E731
    monkeypatch.setattr(gla_mixer.Mixer, "forward", heedless)
    assert {name for name, status in statuses(examine_mixer("gla", CPU)).items() if status != "ok"} == {"batch"}


def test_nan_is_not_well(monkeypatch):
    import kernels.gla

    right = kernels.gla.chunked
    monkeypatch.setattr(kernels.gla, "chunked", lambda *x, **s: (lambda out, state: (out * torch.nan, state))(*right(*x, **s)))
    assert set(statuses(examine_mixer("gla", CPU)).values()) == {"failed"}


def test_gradients_that_a_library_refuses(monkeypatch, capsys):
    right = gla_mixer.gla_attention

    def refuses(*arguments, **more):
        if torch.is_grad_enabled() and arguments[0].dtype != torch.float64:
            raise RuntimeError("produces incorrect results (see #640): install tilelang: `pip install tilelang`")
        return right(*arguments, **more)

    monkeypatch.setattr(gla_mixer, "gla_attention", refuses)
    assert doctor.examine(["gla"], device="cpu") == 1
    assert "refused gla: gradients (float32): RuntimeError: produces incorrect results" in capsys.readouterr().out
    assert statuses(examine_mixer("gla", CPU))["kernel"] == "ok"
    assert examine_mixer("gla", CPU).verdict == "refused"


def test_a_mixer_that_breaks_is_a_finding(monkeypatch):
    monkeypatch.setattr(gla_mixer, "gla_attention", lambda *x, **s: 1 / 0)
    result = examine_mixer("gla", CPU)
    assert result.verdict == "failed"
    assert {finding.reason for finding in result.findings} == {"ZeroDivisionError: division by zero"}


GPU = {"triton": "3.9.0", "fla-core": "0.6.0", "einops": "0.8.2", "tilelang": None, "flash-attn": "2.8.0"}
EXTRA, TILELANG = "pip install -e '.[gpu]'", "pip install tilelang"


@pytest.mark.parametrize(
    ("changes", "capability", "nvcc", "wanted"),
    [
        ({}, 9, True, {}),
        (dict.fromkeys(GPU), None, False, {}),
        ({"triton": None}, 8, True, {"triton": EXTRA}),
        ({"fla-core": None, "einops": None}, 8, True, {"fla-core and einops": EXTRA}),
        ({"flash-attn": None}, 8, True, {"flash-attn": "pip install flash-attn --no-build-isolation"}),
        ({"triton": "3.6.0"}, 9, True, {"tilelang": TILELANG}),
        ({"triton": "3.4.0"}, 9, False, {"tilelang": TILELANG, "nvcc": "pip install 'nvidia-cuda-nvcc>=13'"}),
        ({"triton": "3.7.0", "tilelang": "0.1.6"}, 9, False, {"nvcc": "pip install 'nvidia-cuda-nvcc>=13'"}),
        ({"triton": "3.7.0", "tilelang": "0.1.6"}, 9, True, {}),
        ({"triton": "3.7.1"}, 9, False, {}),
        ({"triton": "3.3.1"}, 9, True, {}),
        ({"triton": "3.6.0"}, 8, True, {}),
        ({"triton": "3.6.0"}, 10, True, {}),
    ],
)
def test_what_is_missing_and_what_brings_it(changes, capability, nvcc, wanted):
    assert {one.package: one.command for one in missing({**GPU, **changes}, capability, nvcc)} == wanted


def test_where_gradients_are_refused_is_as_flash_linear_attention_says():
    """Its own sentence names the versions, and the operator's docstring repeats them."""
    import inspect

    from nha_eval.doctor.missing import RIGHT_FROM, WRONG_FROM

    chunk_o = pytest.importorskip("fla.ops.common.chunk_o")
    assert f"Triton >= {WRONG_FROM} and < {RIGHT_FROM} on Hopper" in " ".join(inspect.getsource(chunk_o).split())


def test_json_is_one_object_and_only_that(capsys):
    assert cli.run(["doctor", "--mixer", "gla", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "ok"
    assert found["machine"] == []
    assert found["mixers"]["gla"]["checks"]["steps"]["bound"] == 1e-5
    assert found["versions"]["torch"]


def test_a_failure_is_in_the_json(capsys, quick):
    quick["nha"] = Result("nha", "triton", 1.0, [Finding("kernel", "failed", 1e-5, "float32", "7", 0.1)])
    assert cli.run(["doctor", "--mixer", "nha", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "bad"
    assert found["mixers"]["nha"]["checks"]["kernel"]["error"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixer", "glaa"], "no such mixer: 'glaa'; did you mean 'gla'"),
        (["--device", "gpu"], "device 'gpu': wanted is auto, cpu, cuda or cuda:N"),
        (["--device", "mps"], "device 'mps': wanted is auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:77"], "give --device cpu"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys):
    assert cli.run(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "data", ["file", "file/below", "/proc/nowhere", "read-only", "read-only/below", "", "a\0b", "~no-such-user"]
)
def test_data_that_cannot_be_written_is_wrong_input(data, quick, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "read-only").mkdir(mode=0o555)
    before = os.environ["NHA_EVAL_CACHE"]
    assert cli.run(["doctor", "--mixer", "gla", "--device", "cpu", f"--data={data}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: --data ") and err.count("\n") == 1 and "give another" in err
    assert os.environ["NHA_EVAL_CACHE"] == before


def test_data_is_where_verdicts_are_kept(quick, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NHA_EVAL_CACHE", "not-here")
    assert cli.run(["doctor", "--mixer", "gla", "--device", "cpu", f"--data={tmp_path / 'new'}"]) == 0
    assert len(list((tmp_path / "new/doctor").glob("*.json"))) == 1


def test_a_cache_that_cannot_be_written_is_said(quick, capsys, own_cache):
    own_cache.write_text("a file")
    assert doctor.examine(["gla"], device="cpu") == 0
    assert "not kept" in capsys.readouterr().out
