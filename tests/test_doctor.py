"""`interp doctor`, and the versions that are said to be tested."""

import json
import re

import pytest
from conftest import ROOT
from packaging.version import Version

from circuits.cli import app, doctor
from interp.loading.tested import TESTED, installed, was_tested


def test_what_is_pinned_is_the_lowest_version_that_is_tested():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for name, (low, high) in TESTED.items():
        assert Version(low) <= Version(high)
        if name != "python":
            assert pins[name] == low, name


def test_the_range_that_is_tested_is_allowed():
    text = (ROOT / "pyproject.toml").read_text()
    allowed = dict(re.findall(r'"(transformers|transformer-lens|nnsight|torch)>=([\d.]+)', text))
    assert set(allowed) == set(TESTED) - {"python"}
    for name, least in allowed.items():
        assert Version(least) <= Version(TESTED[name][0]), name


@pytest.mark.parametrize(
    ("name", "version", "within"),
    [
        ("transformers", "5.23.0", True),
        ("transformers", "5.25.0", True),
        ("transformers", "5.22.2", False),
        ("transformers", "5.26.0.dev0", False),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.14.0", False),
        ("python", "3.11.9", True),
        ("python", "3.14.0", False),
    ],
)
def test_versions_in_and_out_of_the_range(name: str, version: str, within: bool):
    assert was_tested(name, version) is within


def test_this_environment_is_one_that_is_tested():
    for name in set(TESTED) - {"python"}:
        version = installed(name)
        assert version is not None
        assert was_tested(name, version), name


def test_doctor_reports_as_json(capsys):
    assert app.run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    versions = {row["name"]: row for row in report["versions"]}
    assert list(versions) == list(TESTED)
    assert versions["transformers"]["version"] == installed("transformers")
    assert versions["transformers"]["tested"] == "5.23.0 to 5.25.0"
    assert report["free_memory_gb"] > 0.1
    assert report["free_disk_gb"] > 0
    assert "gemma-3-270m" in report["cache"]["pulled"]


def test_doctor_says_what_was_not_tested(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "interp.loading.tested.installed", lambda name: None if name == "nnsight" else "9.9"
    )
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "not" / "there"))
    report = doctor.examine()
    assert report["cache"] == {"folder": str(tmp_path / "not" / "there"), "pulled": []}
    assert {row["name"]: row["within"] for row in report["versions"]}["nnsight"] is None
    assert app.run(["doctor"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "transformers 9.9 was not tested with interp (5.23.0 to 5.25.0 was): run 'interp validate' "
        "on your model before you trust a number." in shown
    )
    assert "not installed" in shown
