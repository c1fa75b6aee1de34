"""What a run shows: the estimate of the time left, a line a cell without a terminal, a bar on one."""

import io

import fakes
import pytest
from rich.console import Console

from nha_eval.plan import expand
from nha_eval.progress import Display, Estimate, duration, headline
from nha_eval.spec import Spec

OK = {"status": "ok", "seconds": 2.0, "rows": [{"metric": "acc", "value": 0.5, "stderr": 0.25, "n": 4}]}


@pytest.fixture
def cells():
    spec = Spec.model_validate({**fakes.SPEC, "costs": False})
    return expand(spec, [fakes.describe(entry.name) for entry in spec.models], fakes.suites())


def test_the_estimate_learns_from_the_likest_cells(cells):
    estimate = Estimate()
    assert estimate.seconds(cells) is None
    estimate.add(cells[0], 4.0)
    assert estimate.seconds(cells) == 4.0 * len(cells)
    same_task = next(cell for cell in cells[1:] if cell.task == cells[0].task and cell.length == cells[0].length)
    other = next(cell for cell in cells if cell.task != cells[0].task)
    estimate.add(other, 2.0)
    assert estimate.seconds([same_task]) == 4.0
    assert estimate.seconds([other]) == 2.0


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (0.2, "0 s"), (89, "89 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_on_a_display(cells, terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=200, highlight=False)
    with Display(cells, {cells[0].id: OK}, console) as display:
        display.loading("a model [sic]")
        display.begin(cells[1])
        display.step(1, 3)
        display.tick()
        display.done(cells[1], OK)
        display.warn("careful")
    text = shown.getvalue()
    assert "acc 0.500 ± 0.250 (n=4)" in text
    assert "careful" in text
    assert "left" in text
    if not terminal:
        assert f"[2/{len(cells)}]" in text


def test_headlines(cells):
    assert headline(cells[0], {"status": "oom", "reason": "no room"}) == "oom: no room"
    assert headline(cells[0], {**OK, "rows": [{"metric": "ppl", "value": "inf", "stderr": None, "n": 1}]}) == "ppl inf (n=1)"


def test_a_score_without_spread_shows_its_interval(cells):
    row = {"metric": "acc", "value": 1.0, "stderr": 0.0, "ci_low": 0.8241, "ci_high": 1.0, "n": 18}
    assert headline(cells[0], {**OK, "rows": [row]}) == "acc 1.000 (0.824 to 1.000) (n=18)"
