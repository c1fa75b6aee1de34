"""The `contains` metric."""

import pytest

from tasks.metrics import contains


@pytest.mark.parametrize(
    ("answers", "generated", "score"),
    [
        (["4821"], " 4821. The", 1.0),
        (["Denver"], " the city of DENVER", 1.0),
        (["Sky plc", "BSkyB"], " bskyb", 1.0),
        (["a.c"], "abc", 0.0),
        (["4821"], " 4812", 0.0),
        (["4821"], "", 0.0),
        ([""], "anything", 0.0),
        (["4821"], ["4821"], 1.0),
    ],
)
def test_contains(answers, generated, score):
    assert contains({"answers": answers}, [generated]) == {"contains": score}
