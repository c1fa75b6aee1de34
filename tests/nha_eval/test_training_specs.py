"""Specs of `hybridize` and of training text with anything in them: a spec comes of it, or one clear line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nha_eval.errors import UserError
from nha_eval.hybridize.spec import Distill, Gate, Heldout, HybridSpec, LoraSettings, SelfText, make_hybrid_spec
from nha_eval.text import TextSpec, make_text_spec

WHERE = "spec.yaml"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["full", "lora", "../../x", "<script>", "\0", "a\nb", "x" * 10_000, "64", "-1", "1e400"]),
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


def mappings(model, inner=None):
    """Mappings whose keys are mostly a model's, with what `inner` has for some of them, and junk."""
    keys = st.sampled_from(sorted(model.model_fields)) | st.text(max_size=8) | SCALARS
    inner = inner or {}
    return st.lists(keys, max_size=6, unique_by=str).flatmap(
        lambda names: st.fixed_dictionaries({name: st.one_of(JUNK, inner.get(name, JUNK)) for name in names})
    )


STAGE = mappings(Distill) | st.just({"tokens": 1_000_000})
HYBRID = mappings(
    HybridSpec,
    {
        "base": st.just("smollm2-135m"),
        "window": st.sampled_from([0, 16, "64", "full"]),
        "text": mappings(TextSpec) | st.just({"source": "debian"}),
        **dict.fromkeys(("align", "distill", "finetune"), STAGE),
        "gate": mappings(Gate),
        "lora": mappings(LoraSettings),
        "heldout": mappings(Heldout),
        "self_text": mappings(SelfText),
        "settings": st.just({"some": [16, "full"]}) | JUNK,
        "windows": st.sampled_from(["some", [16, "full"]]) | JUNK,
    },
)


@pytest.mark.parametrize("base", [{}, {"base": "smollm2-135m"}], ids=["anything", "with a base"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=HYBRID)
def test_a_hybrids_spec(base, content):
    try:
        spec = make_hybrid_spec({**base, **content}, {}, where=WHERE)
    except UserError as problem:
        assert str(problem).startswith(WHERE)
    else:
        # What was taken is taken again as it was written down.
        again = make_hybrid_spec(spec.deciding(), {}, where=WHERE)
        assert again.deciding() == spec.deciding()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=mappings(TextSpec, {"source": st.just("debian")}))
def test_a_texts_spec(content):
    try:
        spec = make_text_spec(content, where=WHERE)
    except UserError as problem:
        assert str(problem).startswith(WHERE)
    else:
        assert make_text_spec(spec.model_dump(mode="json"), where=WHERE) == spec
