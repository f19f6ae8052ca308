"""No repr prints all the numbers that an object holds."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny, word_pairs

import circuits
import interp
from circuits.discovery import Evaluator
from interp.brief import brief_repr
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt

LARGE = re.compile(
    r"Tensor|ndarray|DataFrame|DataArray|Dataset|Mapping|Sequence|tuple\[.*\.\.\.|list\[|dict\[|"
    r"frozenset|Iterable"
)
JUNK = [
    torch.zeros(1000, 100),
    np.zeros(5000),
    pd.DataFrame({"x": range(1000)}),
    "a very long text " * 1000,
    tuple(range(10_000)),
    ("x" * 3000,),
    {str(i): torch.zeros(10) for i in range(100)},
    [torch.zeros(100)],
    10**400,
]


def public_dataclasses() -> list[type]:
    found = []
    for package in (interp, circuits):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for cls in vars(importlib.import_module(info.name)).values():
                if (
                    inspect.isclass(cls)
                    and dataclasses.is_dataclass(cls)
                    and cls.__module__ == info.name
                    and not cls.__name__.startswith("_")
                ):
                    found.append(cls)
    return found


def by_hand(cls: type) -> bool:
    """Whether a class, or a base of it, writes a repr of its own."""
    own = [base for base in cls.__mro__ if base.__module__.split(".")[0] in ("interp", "circuits")]
    return any("def __repr__" in inspect.getsource(base) for base in own)


def test_whatever_holds_many_values_has_a_short_repr():
    classes = public_dataclasses()
    assert len(classes) > 150
    long = [
        f"{cls.__module__}.{cls.__name__}"
        for cls in classes
        if any(f.repr and LARGE.search(str(f.type)) for f in dataclasses.fields(cls))
        and cls.__repr__ is not brief_repr
        and not by_hand(cls)
    ]
    assert long == []


@pytest.mark.parametrize("shift", range(len(JUNK)))
def test_brief_reprs_stay_short_whatever_is_inside(shift: int):
    for cls in public_dataclasses():
        if cls.__repr__ is brief_repr:
            one = object.__new__(cls)
            for i, field in enumerate(dataclasses.fields(cls)):
                object.__setattr__(one, field.name, JUNK[(i + shift) % len(JUNK)])
            assert len(repr(one)) < 300, repr(one)
            assert repr(one).startswith(f"{cls.__name__}(")


def test_real_objects_say_what_they_are():
    model = tiny("llama")
    pairs, _ = tokenise(model, word_pairs())
    vector = torch.zeros(3, 8, 32)
    steps = [interp.Patch("z", vector, layers=i % 3, units=(0, 1, 2)) for i in range(300)]
    many = interp.Add("mlp_post", torch.zeros(56), units=range(56), layers=[0, 1, 2])
    things = {
        "Prediction": interp.forward(model, pairs),
        "TokenPrompt": TokenPrompt(tuple(range(4, 90))),
        "Plan": interp.Plan.of(*steps),
        "Add": many,
        "Generation": interp.generate(model, "w1 w2", max_new_tokens=40)[0],
        "AblationResult": interp.ablate(model, word_pairs(), "L1H2", n_random=2),
        "Activations": interp.activations(model, pairs, "z"),
        "LensReading": interp.logit_lens(model, pairs),
        "NodeScores": interp.attribute_nodes(model, word_pairs(), "eap"),
        "PatchResult": interp.patch(model, word_pairs(), over="layer"),
        "Evaluator": Evaluator.of(model, word_pairs()),
        "TokenPair": pairs[0],
        "DirectEffects": interp.direct_logit_attribution(model, pairs),
    }
    for name, thing in things.items():
        assert len(repr(thing)) < 300, repr(thing)
        assert repr(thing).startswith(name), repr(thing)
    assert repr(things["Prediction"]) == "Prediction(resid=Tensor[3, 32], logits=Tensor[3, 97])"
    assert repr(things["TokenPrompt"]) == "TokenPrompt(ids=86 items, spans={}, text='')"
    assert "units=0 to 55" in repr(many)
    assert "300 interventions" in repr(things["Plan"])
