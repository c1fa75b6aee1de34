"""How copying is measured, on models of which it is known what they foretell."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_hybridize import rows
from tiny_hybrid import LENGTH, place, spec_of  # noqa: F401

from nha_eval import cli
from nha_eval.errors import UserError
from nha_eval.hybridize.copying import copying
from nha_eval.hybridize.spec import Copies
from nha_eval.hybridize.stages import hybridize

VOCABULARY = 4096


class Copier(torch.nn.Module):
    """Foretells what came `back` tokens before; every token right where a sequence repeats at that distance."""

    def __init__(self, back):
        super().__init__()
        self.back = back

    def model(self, ids, use_cache):
        shown = torch.nn.functional.one_hot(torch.roll(ids, self.back - 1, 1), VOCABULARY).float()
        return SimpleNamespace(last_hidden_state=shown)

    def lm_head(self, hidden):
        return hidden


def measured(student, teacher, **wanted):
    text = np.random.default_rng(0).integers(VOCABULARY, size=5000).astype(np.uint16)
    return copying(student, teacher, text, Copies(**wanted), seed=0, device=torch.device("cpu"), dtype=torch.float32)


def test_what_repeats_is_told_from_what_does_not():
    near, far = measured(Copier(24 + 40), Copier(24 + 100), sequences=12, passage=24, distances=[100, 40])
    assert (near["distance"], far["distance"]) == (40, 100)
    assert (near["right"], near["base"], far["right"], far["base"]) == pytest.approx((1, 0, 0, 1), abs=0.01)
    # In the control nothing was there to be copied.
    assert max(near["control"], far["base_control"]) < 0.01
    assert (near["difference"], far["difference"]) == pytest.approx((1, -1), abs=0.01)
    assert near["right_stderr"] == 0


def test_a_text_that_is_too_short_is_told():
    with pytest.raises(UserError, match=r"5000 tokens, a passage of 64 met again after 4900 wants 5028: .*copying\.distances"):
        measured(Copier(3), Copier(3), distances=[4900])


def test_a_hybrid_in_full_copies_as_its_base(place, tmp_path):  # noqa: F811
    stage = {"tokens": 2 * LENGTH * 8, "batch": 8}
    wanted = {"sequences": 6, "passage": 8, "distances": [16, 4]}
    spec = spec_of(place, full_layers=[0, 1], align=None, distill=None, finetune=None, copying=wanted)
    made = hybridize(spec, tmp_path / "full")
    found = rows(tmp_path / "full/copying.csv")
    assert [(row["stage"], row["distance"], row["difference"]) for row in found] == [
        ("conversion", "4", "0"),
        ("conversion", "16", "0"),
    ]
    assert "met again" not in (made / "README.md").read_text() and "comes again" in (made / "README.md").read_text()
    # A stage each, and again nothing is measured twice.
    spec = spec_of(place, align=stage, distill=stage, copying=wanted)
    hybridize(spec, tmp_path / "run")
    found = rows(tmp_path / "run/copying.csv")
    assert [row["stage"] for row in found] == [name for name in ("conversion", "align", "distill") for _ in range(2)]
    before = (tmp_path / "run/copying.csv").read_bytes()
    hybridize(spec, tmp_path / "run")
    assert (tmp_path / "run/copying.csv").read_bytes() == before
    # How copying is measured decides no weight: another way of it is measured in the same folder.
    hybridize(spec.model_copy(update={"copying": Copies(sequences=3, passage=8, distances=[4])}), tmp_path / "run")
    assert {row["sequences"] for row in rows(tmp_path / "run/copying.csv")} == {"3"}
    hybridize(spec.model_copy(update={"copying": Copies(sequences=3, passage=9, distances=[4])}), tmp_path / "run")
    assert {row["passage"] for row in rows(tmp_path / "run/copying.csv")} == {"9"}
    # A table from before it said how long passages were.
    old = (tmp_path / "run/copying.csv").read_text().replace("distance,passage,", "distance,").replace(",4,9,3,", ",4,3,")
    (tmp_path / "run/copying.csv").write_text(old)
    hybridize(spec.model_copy(update={"copying": Copies(sequences=3, passage=9, distances=[4])}), tmp_path / "run")
    assert {row["passage"] for row in rows(tmp_path / "run/copying.csv")} == {"9"}


def test_what_cannot_be_measured_is_one_line(place, tmp_path, capsys):  # noqa: F811
    (tmp_path / "spec.yaml").write_text(f"base: {place / 'base'}\ncopying: {{distance: [4]}}\n")
    assert cli.run(["hybridize", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "distances" in error
