"""Doctor: a verdict and an exit code, whatever a check does."""

from nha_eval import doctor


def only(*findings):
    return [("thing", lambda: iter(findings))]


def test_verdicts(capsys):
    assert doctor.examine(only(("ok", "fine"), ("note", "far"))) == 0
    assert "can run evaluations" in capsys.readouterr().out
    assert doctor.examine(only(("ok", "fine"), ("bad", "broken"))) == 1
    assert "needs mending (thing)" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_finding(capsys):
    def breaks():
        raise RuntimeError("surprise")
        yield

    assert doctor.examine([("first", breaks), *only(("ok", "still asked"))]) == 1
    shown = capsys.readouterr().out
    assert "RuntimeError: surprise" in shown
    assert "still asked" in shown


def test_this_machine(capsys):
    assert doctor.examine([(name, check) for name, check in doctor.checks() if name != "disk"]) == 0
    shown = capsys.readouterr().out
    for name, _ in doctor.checks():
        assert name in shown or name == "disk"


def test_a_wrong_operator_is_found(monkeypatch):
    import kernels

    right = kernels.nha_attention

    def wrong(*args, backend, **options):
        out, state = right(*args, backend=backend, **options)
        return (out * 1.001 if backend == "chunked" else out), state

    monkeypatch.setattr(kernels, "nha_attention", wrong)
    assert [state for state, _ in doctor._operator()] == ["bad"]
