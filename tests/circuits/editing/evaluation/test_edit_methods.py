"""The benchmark of methods reads nothing again that other settings or weights made."""

from argparse import Namespace
from dataclasses import replace

import torch
from conftest import tiny, tiny_hf, word_tokenizer
from test_control_questions import CASES

import interp
from benchmarks.edit_methods import knowledge, steps_of, written_once
from circuits.editing.evaluation.conditions import EditCondition
from circuits.editing.fact import Fact, PreservedQuestion
from circuits.editing.methods import Method
from circuits.editing.presets import preset
from circuits.editing.writing import Request, Written


def test_edits_are_shared_by_strengths_alone():
    made: list[Written] = []

    def write(*_, **__):
        made.append(Written((), ()))
        return made[-1:]

    once, method = written_once(write), preset("rome", tiny("llama"))
    request = Request((Fact("w1 {}", "w10", "w40"),), (PreservedQuestion("w4 w33 w5", "w33"),))
    given = {"method": method, "templates": ("{}",)}
    first = once(None, [request], **given)
    named = Method("rome:strength=0.5", method.stages)
    assert once(None, [request], **(given | {"method": named})) is first
    once(None, [replace(request, preserved=())], **given)  # drawn by another seed
    once(None, [request], **(given | {"templates": ("{}", "w1 {}")}))
    assert len(made) == 3


def test_steps_of_other_settings_lie_in_other_folders(tmp_path):
    args = Namespace(out=tmp_path, model="m", names="none", tag="t", split="test", cases="c.json")
    model, rome = tiny("llama"), EditCondition("rome", preset("rome", tiny("llama")))
    half = interp.load_model(tiny_hf("llama").to(torch.bfloat16), tokenizer=word_tokenizer())
    settings = [
        (model, CASES[:2], False, rome),
        (model, CASES[:1], False, rome),
        (model, CASES[:2], True, rome),
        (model, CASES[:2], False, replace(rome, strength=0.5)),
        (half, CASES[:2], False, rome),
    ]
    for expected in ("made", "read"):  # and none refuses another
        for number, (one, *given) in enumerate(settings):
            with steps_of(args, "rome.0", one, *given) as steps:
                value = steps.step("x", lambda n=number, e=expected: {"v": f"{e} {n}"}, dict)
            assert value == {"v": f"made {number}"}


def test_what_a_model_knows_is_stored_by_its_weights_and_dtype(tmp_path):
    asked = []
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        model = interp.load_model(tiny_hf("llama").to(dtype), tokenizer=word_tokenizer())
        knowledge(model, CASES[:1], tmp_path)
        asked.append(len(list(tmp_path.glob("know_*"))))
    assert asked == [1, 2, 2]
