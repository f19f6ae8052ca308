"""`interp validate`: what holds, what fails, and what does not apply to a kind of model."""

import json

import pytest
import torch
from conftest import remapped, tiny

import interp
from circuits.cli.app import run
from interp.loading.programs import PROGRAMS

NOT_APPLICABLE = {
    "padding on either side changes nothing": "has no attention mask",
    "generating under a plan equals running everything again per token": "does not generate",
}


def test_no_tolerance_is_none_at_all():
    packed = "the packed forward equals the model's own forward under plain hooks"
    failed = {check.name: check.detail for check in interp.validate(tiny("llama"), 0.0)}[packed]
    assert "allowed 0" in failed


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_shipped_programs_hold_and_say_what_does_not_apply(name: str):
    checks = {check.name: check for check in interp.validate(interp.load_model(name))}
    assert [check for check in checks.values() if not check.holds] == []
    assert {check.name for check in checks.values() if not check.applies} == set(NOT_APPLICABLE)
    for check, why in NOT_APPLICABLE.items():
        assert checks[check].detail.startswith("not applicable: a compiled program")
        assert why in checks[check].detail
    assert "read in both directions" in checks["every site fulfils its identities"].detail
    effective = checks["editing any site changes the prediction"]
    assert "not applicable to heads and neurons" in effective.detail


def test_a_program_with_a_wrong_map_fails():
    model = interp.load_model("tracr-hist")
    for site, instead in (("resid_mid", "mlp_post"), ("resid_post", "resid_mid")):
        checks = interp.validate(remapped(model, site, instead))
        held = {check.name: check.holds for check in checks}
        assert not held["every site fulfils its identities"], site
    dead = interp.load_model("tracr-hist")
    with torch.no_grad():
        dead.hf.unembed.weight.zero_()
    held = {check.name: check.holds for check in interp.validate(dead)}
    assert not held["editing any site changes the prediction"]


def test_the_verb_tells_what_does_not_apply(capsys):
    assert run(["validate", "tracr-hist", "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["holds"] is True
    assert {row["check"] for row in said["checks"] if not row["applies"]} == set(NOT_APPLICABLE)
    assert run(["validate", "tracr-hist", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "–" in shown
    assert "NO" not in shown


def test_parallel_blocks_have_no_middle_to_check():
    checks = {check.name: check for check in interp.validate(tiny("gptj"))}
    middle = checks["resid_mid edits reach the residual stream"]
    assert (middle.holds, middle.applies) == (True, False)
    assert middle.detail.startswith("not applicable: no resid_mid: attention and MLP read")
