"""Means over pairs at one position, where that position is not the same thing in every pair."""

import warnings

import pytest
from conftest import tiny, word_pairs

import interp
from interp.attribution.attribute import attribute_to
from interp.data.pairs import PromptPairs
from interp.errors import InterpWarning
from interp.patching.result import PatchResult


def pair(clean: str, corrupt: str, span: list[str]) -> dict:
    return {
        "clean": clean,
        "corrupt": corrupt,
        "answer": "w20",
        "wrong_answer": "w21",
        "spans": {"s": span},
    }


ALIKE = [pair("w1 w2 w3", "w4 w2 w3", ["w1", "w4"]), pair("w5 w6 w7", "w8 w6 w7", ["w5", "w8"])]
SHIFTED = [ALIKE[0], pair("w6 w5 w7", "w6 w8 w7", ["w5", "w8"])]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [(word_pairs(), "have 4 to 8 tokens"), (SHIFTED, "'s' is at different positions")],
)
def test_mixed_positions_are_said(rows, reason: str, tmp_path):
    pairs = rows if isinstance(rows, PromptPairs) else PromptPairs.from_records(rows)
    with pytest.warns(InterpWarning, match=reason):
        result = interp.patch(tiny("llama"), pairs, over="layer,pos")
    (text,) = result.warnings
    assert reason in text
    assert "over='span'" in text
    assert result.summary()["warnings"] == [text]
    assert text.partition("'")[0] in result._repr_html_().replace("&#x27;", "'")
    # which token carries the answer cannot be said of a mean over different tokens
    assert result.summary()["carriers"] is None
    assert "Where the answer is" not in result._repr_html_()
    assert PatchResult.load(result.save(tmp_path / "run")).warnings == result.warnings
    assert result.select(str(result.values.pair.values[0])).warnings == ()
    with pytest.warns(InterpWarning, match="one template, or leave 'pos' out"):
        interp.attribute(tiny("llama"), pairs, "z", ("layer", "pos"), "eap")


def test_runs_in_folders_warn_made_or_loaded(tmp_path):
    model, uneven = tiny("llama"), [pair("w1 w2 w3", "w4 w5 w2 w3", ["w1", "w4 w5"])]
    uneven = PromptPairs.from_records(uneven)
    for _ in range(2):
        with pytest.warns(InterpWarning, match="have 4 to 8 tokens") as said:
            interp.patch(model, word_pairs(), over="layer,pos", out=tmp_path / "patch")
        assert [one.filename for one in said] == [__file__]
        with pytest.warns(InterpWarning, match="no partner") as said:
            interp.ablate(model, uneven, "a0.h1", n_random=0, out=tmp_path / "ablate")
        assert [one.filename for one in said] == [__file__]
        with pytest.warns(InterpWarning, match="have 4 to 8 tokens"):
            attribute_to(model, word_pairs(), "z", method="eap", out=tmp_path / "attribute")


def test_nothing_is_said_where_positions_agree_or_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InterpWarning)
        alike = interp.patch(tiny("llama"), PromptPairs.from_records(ALIKE), over="layer,pos")
        spans = interp.patch(tiny("llama"), word_pairs(), over="layer,span")
        interp.attribute(tiny("llama"), word_pairs(), "z", ("layer", "head"), "eap")
    assert alike.warnings == spans.warnings == ()
    assert alike.summary()["carriers"] is not None
    assert "Where the answer is" in alike._repr_html_()
    assert spans.values.span.values.tolist() == ["s", "s_last", "last"]
