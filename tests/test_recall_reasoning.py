"""The study on models whose circuits are planted, and its parts on cases worked out by hand."""

import numpy as np
import pytest
from planted_recall import COPY, RECALL, planted, planted_data

from circuits.recall_reasoning import Settings, study

QUICK = Settings(
    design="A-C",
    sizes=(1,),
    rules=("absolute",),
    ablations=("resample",),
    n_select=20,
    n_validate=20,
    n_test=40,
    n_control=20,
    n_random=10,
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    out = tmp_path_factory.mktemp("planted") / "run"
    return study(planted(), QUICK, out, data=planted_data)


def test_planted_heads_are_found_exactly(separate):
    found = separate.tables["circuits"].groupby("ability")["component"].agg(set).to_dict()
    assert found == {
        "recall": {f"a{RECALL[0]}.h{RECALL[1]}"},
        "copying": {f"a{COPY[0]}.h{COPY[1]}"},
    }


def test_planted_heads_dissociate_in_every_seed(separate):
    assert separate.chosen["holds"].all()
    assert separate.tables["doubles"]["holds"].tolist() == [True, True]
    assert np.allclose(separate.chosen["own_effect"], 1, atol=0.05)
    assert np.allclose(separate.chosen["other_effect"], 0, atol=0.05)
    assert separate.verdict[0].startswith("There is a double dissociation of recall and copying")
