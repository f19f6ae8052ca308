"""`RunFolder`: steps kept and read back, locks, refusals, seals, and what a kill leaves."""

import json
import multiprocessing
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer
from kills import Killed, killed_at, names
from tokenizers.processors import TemplateProcessing

import interp
from interp.errors import DataError, RunFolderError
from interp.results import folder
from interp.results.folder import replacing, write_text
from interp.results.run_folder import (
    ARRAYS,
    TABLES,
    RunFolder,
    Steps,
    fingerprint,
    identity,
    in_one_piece,
)

OPTIONS = {"site": "z", "limit": 8}


def test_arrays_are_told_apart_by_type_shape_and_values():
    x = np.arange(6.0)
    others = [x.reshape(2, 3), x.astype(np.float32), x[::-1], x.astype(object)]
    assert len({fingerprint(one) for one in (x, x.copy(), *others)}) == 5


def arrays(i: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(3.0) + i}


def small_run(
    out: Path, options: dict = OPTIONS, force: bool = False, made: list | None = None, n: int = 2
) -> None:
    """A run of a few steps and a page."""
    with RunFolder.open(out, "test", options, unit="pairs", force=force) as run:
        if not run.finished:
            found = []
            for i in range(n):

                def make(i: int = i) -> dict[str, np.ndarray]:
                    if made is not None:
                        made.append(i)
                    return arrays(i)

                found.append(run.step(f"{i:06d}", make, ARRAYS)["x"])
                run.count(i + 1, n)
            joined = {"x": np.concatenate(found)}
            run.finish(
                lambda at: folder.write(at, {"kind": "test", "said": "ä"}, {}, joined),
                page=lambda at: write_text(at / "index.html", folder.read_manifest(at)["said"]),
            )


def stopped(out: Path, after: int, options: dict = OPTIONS) -> KeyboardInterrupt:
    """Ctrl-C once some steps are there."""
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        RunFolder.open(out, "test", options, unit="pairs") as run,
    ):
        for i in range(after):
            run.step(f"{i:06d}", lambda i=i: arrays(i), ARRAYS)
            run.count(i + 1, 2)
        raise KeyboardInterrupt
    return caught.value


# --- steps -------------------------------------------------------------------------------------


def test_a_run_is_put_into_place_whole(tmp_path: Path):
    small_run(tmp_path / "deep" / "run")
    assert names(tmp_path / "deep") == ["run"]
    assert names(tmp_path / "deep" / "run") == ["arrays.safetensors", "index.html", "manifest.json"]
    manifest, _, found = folder.read(tmp_path / "deep" / "run", "test")
    assert found["x"].tolist() == [0, 1, 2, 1, 2, 3]
    assert manifest["provenance"] == {
        "run": manifest["provenance"]["run"],
        "verb": "test",
        "options": OPTIONS,
    }


def test_finished_steps_are_read_back_and_damaged_ones_made_again(tmp_path: Path):
    out, made = tmp_path / "run", []
    note = stopped(out, 2).__notes__
    assert note == [
        f"2 of 2 pairs are saved in {out}.partial; run the same command again to go on."
    ]
    file = tmp_path / "run.partial" / "000001" / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # the same length, another number
    small_run(out, made=made)
    assert made == [1]
    assert names(tmp_path) == ["run"]


def test_a_step_of_another_run_is_not_read(tmp_path: Path):
    stopped(tmp_path / "other", 2, {"site": "q"})
    stopped(tmp_path / "run", 1)
    theirs, ours = (tmp_path / f"{name}.partial" / "000001" for name in ("other", "run"))
    theirs.rename(ours)
    made: list[int] = []
    small_run(tmp_path / "run", made=made)
    assert made == [1]


def test_a_run_without_a_folder_keeps_nothing(tmp_path: Path):
    calls: list[int] = []
    for _ in range(2):
        Steps().step("a", lambda: calls.append(1) or arrays(0), ARRAYS)
    assert len(calls) == 2
    assert in_one_piece(None, "test", {}, lambda: arrays(1), ARRAYS)["x"].tolist() == [1, 2, 3]


def test_tables_come_back_as_they_were(tmp_path: Path):
    table = pd.DataFrame({"a": [0.1, np.nan], "b": ["x", "ü"]})
    found = in_one_piece(tmp_path / "t", "test", {}, lambda: {"one": table}, TABLES)
    pd.testing.assert_frame_equal(found["one"], table)
    again = in_one_piece(tmp_path / "t", "test", {}, lambda: pytest.fail("made again"), TABLES)
    pd.testing.assert_frame_equal(again["one"], table)


def test_nothing_stays_of_a_run_that_kept_nothing(tmp_path: Path):
    error = stopped(tmp_path / "deep" / "run", 0)
    assert not hasattr(error, "__notes__")
    with pytest.raises(ValueError), RunFolder.open(tmp_path / "deep" / "run", "test", {}):
        raise ValueError
    assert names(tmp_path) == []


# --- refusals ----------------------------------------------------------------------------------


def test_another_run_is_refused_by_the_options_that_differ(tmp_path: Path):
    out = tmp_path / "run"
    small_run(out)
    before = {at.name: at.read_bytes() for at in out.iterdir()}
    says = (
        f"{out} holds a test run with site='z' (this one: 'q') and limit=8 (this one: 16); choose "
        "another --out, or pass --force to replace it."
    )
    other = {"site": "q", "limit": 16}
    with pytest.raises(RunFolderError, match=f"^{re.escape(says)}$"):
        small_run(out, other)
    with (
        pytest.raises(RunFolderError, match="holds a test run, not an attribute run; choose"),
        RunFolder.open(out, "attribute", OPTIONS),
    ):
        pass
    assert {at.name: at.read_bytes() for at in out.iterdir()} == before
    assert names(tmp_path) == ["run"]
    small_run(out, other, force=True)
    assert folder.read_manifest(out)["provenance"]["options"] == other
    assert names(tmp_path) == ["run"]


def test_unfinished_steps_of_another_run_are_refused_and_left(tmp_path: Path):
    out, made = tmp_path / "run", []
    stopped(out, 1)
    with pytest.raises(RunFolderError, match=r"run\.partial holds a test run with limit=8 \(this"):
        small_run(out, OPTIONS | {"limit": 9})
    small_run(out, made=made)
    assert made == [1]


def test_long_values_data_and_many_options_are_shortened(tmp_path: Path):
    one = {"a": "x" * 500, "rows": fingerprint([1]), "c": 1, "d": 1, "e": 1}
    small_run(tmp_path / "run", one)
    with pytest.raises(RunFolderError) as caught:
        small_run(tmp_path / "run", {"a": 1, "rows": fingerprint([2]), "c": 2, "d": 2, "e": 2})
    said = str(caught.value)
    assert "other rows, c=1 (this one: 2) and 2 more; choose" in said
    assert len(said) < 400


def test_what_no_run_has_written_is_never_replaced(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more")
    (tmp_path / "run.partial" / "notes").mkdir(parents=True)
    for name, says in (
        ("mine", "exists and is not a run folder"),
        ("file", "exists and is not a run folder"),
        ("run", r"run\.partial exists and holds no run's steps"),
    ):
        with pytest.raises(RunFolderError, match=says):
            small_run(tmp_path / name, force=True)
    assert names(tmp_path) == ["file", "mine", "run.partial"]
    assert names(tmp_path / "run.partial") == ["notes"]


def test_a_damaged_folder_is_refused_and_replaced_by_force(tmp_path: Path):
    out = tmp_path / "run"
    small_run(out)
    (out / "arrays.safetensors").write_bytes(b"half")
    says = f"{out}/arrays.safetensors is damaged or was altered (its seal is broken); run it again"
    with pytest.raises(RunFolderError, match=re.escape(says)):
        small_run(out)
    small_run(out, force=True)
    assert folder.read(out, "test")[2]["x"].shape == (6,)


def test_options_cover_the_tokenizer_but_not_how_it_last_padded():
    tokenizer = word_tokenizer()
    model, found = replace(tiny("gpt2"), tokenizer=tokenizer), list[str]()
    with_bos = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    for change in (
        lambda: tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=4),
        lambda: setattr(tokenizer, "chat_template", "{{ messages }}"),
        lambda: setattr(tokenizer, "eos_token", "w9"),
        lambda: setattr(tokenizer.backend_tokenizer, "post_processor", with_bos),
    ):
        found.append(identity(model)["tokenizer"])
        change()
    assert len({*found, identity(model)["tokenizer"]}) == 4 and found[0] == found[1]


def test_options_cover_the_config_but_not_where_it_was_loaded_from():
    model = interp.load_model(tiny_hf("gemma2"), tokenizer=word_tokenizer())
    before, config = identity(model), model.hf.config
    config._name_or_path, config.use_cache, config.dtype = "elsewhere", False, torch.float16
    assert identity(model) == before
    config.final_logit_softcapping = 7.0
    soft = identity(model)["config"]
    config.rope_parameters["rope_theta"] = 777.0
    assert len({before["config"], soft, identity(model)["config"]}) == 3
    assert identity(model)["weights"] == before["weights"]


def test_options_cover_weights_as_they_are_now():
    model = interp.load_model(tiny("gpt2").hf, tokenizer=tiny("gpt2").tokenizer)
    before, weight = identity(model), next(model.hf.parameters())
    held = weight.detach().clone()
    try:
        weight.data.view(-1)[0] += 1
        weight.add_(0) if not weight.requires_grad else weight.detach().add_(0)
        assert identity(model)["weights"] != before["weights"]
    finally:
        weight.detach().copy_(held)
    assert identity(model) == before


def test_results_record_the_weights_they_were_measured_on(tmp_path: Path):
    model = interp.load_model(tiny_hf("gpt2"), tokenizer=word_tokenizer())
    before = interp.attribute(model, word_pairs(), "z", "layer", progress=False).weights_hash
    with torch.no_grad():
        model.blocks[0].mlp.c_fc.weight.mul_(1.5)
    after = interp.attribute(model, word_pairs(), "z", "layer", progress=False).weights_hash
    swept = interp.patch(model, word_pairs(), out=tmp_path / "run")
    assert before != after == swept.provenance["weights"] == model.weights_hash


# --- seals and modes ---------------------------------------------------------------------------


def test_an_altered_manifest_is_named_and_pages_are_not_sealed(tmp_path: Path):
    out = tmp_path / "run"
    small_run(out)
    (out / "index.html").write_text("another page")
    (out / "notes.txt").write_text("added by hand")
    folder.read(out, "test")
    file = out / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('"ä"', '"ö"'), "utf-8")
    with pytest.raises(RunFolderError, match=re.escape(f"{file} is damaged or was altered")):
        folder.read(out, "test")
    file.write_text("[" * 100_000)
    with pytest.raises(RunFolderError, match=re.escape(f"{file} is damaged (RecursionError")):
        folder.read(out, "test")


def test_modes_follow_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        small_run(tmp_path / "run")
        write_text(tmp_path / "one.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
    files = [at for at in tmp_path.rglob("*") if at.is_file()]
    assert {stat.S_IMODE(at.stat().st_mode) for at in files} == {0o640}
    assert len(files) == 4


def test_a_file_is_whole_or_as_it_was(tmp_path: Path):
    file = write_text(tmp_path / "a" / "page.html", "whole")
    with pytest.raises(ValueError), replacing(file) as beside:
        beside.write_text("ha")
        raise ValueError
    assert file.read_text() == "whole"
    assert names(tmp_path / "a") == ["page.html"]
    with pytest.raises(DataError, match=r"cannot write .*page\.html/x .*File exists|Not a dir"):
        write_text(file / "x", "y")


def test_provenance_is_the_toolkits_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    said = folder.provenance()
    assert said["interp"] == interp.__version__
    folder._own_commit.cache_clear()
    here = folder.provenance()["git"]
    monkeypatch.setattr(folder, "__file__", str(tmp_path / "site" / "interp" / "folder.py"))
    folder._own_commit.cache_clear()
    assert folder.provenance()["git"] is None
    folder._own_commit.cache_clear()
    assert here is None or re.fullmatch("[0-9a-f]{40}", here)


# --- kills -------------------------------------------------------------------------------------


def finished_after_kills(
    base: Path,
    work: Callable[[Path], None],
    before: Callable[[Path], None] | None = None,
    step: int = 1,
) -> int:
    """Kill a run at every file event in turn and run it again; how many events there were."""
    for n in range(0, 10_000, step):
        out = base / f"{n}" / "run"
        out.parent.mkdir(parents=True)
        if before:
            before(out)
        if not killed_at(n, lambda out=out: work(out)):
            return n
        work(out)
        assert names(out.parent) == ["run"], f"kill {n}"
        assert names(out) == ["arrays.safetensors", "index.html", "manifest.json"], f"kill {n}"
        assert folder.read(out, "test")[2]["x"].tolist() == [0, 1, 2, 1, 2, 3], f"kill {n}"
        shutil.rmtree(base / f"{n}")
    raise AssertionError("it never came to an end")


def test_a_run_killed_at_any_file_event_goes_on(tmp_path: Path):
    assert finished_after_kills(tmp_path, small_run) > 50


def test_a_replacement_killed_at_any_file_event_goes_on(tmp_path: Path):
    small_run(tmp_path / "other", {"site": "q"})
    assert (
        finished_after_kills(
            tmp_path,
            lambda out: small_run(out, force=True),
            lambda out: shutil.copytree(tmp_path / "other", out) and None,
            step=2,
        )
        > 50
    )


def test_a_save_killed_at_any_file_event_leaves_the_old_or_the_new(tmp_path: Path):
    def save(out: Path, value: float) -> None:
        folder.write(out, {"kind": "test"}, {}, {"x": np.array([value])})

    for n in range(1000):
        out = tmp_path / f"{n}" / "run"
        save(out, 1.0)
        if not killed_at(n, lambda out=out: save(out, 2.0)):
            break
        with_new = [at for at in (out, out.with_name(".part-run-old")) if at.exists()]
        assert folder.read(with_new[0], "test")[2]["x"][0] in (1.0, 2.0)
        save(out, 3.0)
        assert folder.read(out, "test")[2]["x"].tolist() == [3.0]
        assert names(out.parent) == ["run"]
    assert n > 10


def test_kills_are_noticed(tmp_path: Path):
    """The checks above can fail: a folder written in place is found half made."""

    small_run(tmp_path / "made")

    def careless(out: Path) -> None:
        if not out.exists():
            out.mkdir()
            for file in (tmp_path / "made").iterdir():
                (out / file.name).write_bytes(file.read_bytes())

    with pytest.raises((AssertionError, RunFolderError), match="kill [1-9]"):
        finished_after_kills(tmp_path, careless)
    assert issubclass(Killed, BaseException)


# --- two processes -----------------------------------------------------------------------------


def raced(out: Path, seed: int, start: Callable[[], object], said: Callable[[str], object]) -> None:
    """One of several processes that write to a folder at once."""
    try:
        start()
        interp.patch(tiny("llama"), word_pairs(), "z", "layer,head", out=out, seed=seed)
        said("done")
    except RunFolderError as error:
        said(str(error))


def test_of_two_processes_one_wins_and_the_other_is_refused(tmp_path: Path):
    tiny("llama")
    fork = multiprocessing.get_context("fork")
    for turn in range(4):
        out, barrier, said = tmp_path / f"{turn}" / "run", fork.Barrier(2), fork.Queue()
        both = [
            fork.Process(target=raced, args=(out, seed, barrier.wait, said.put)) for seed in (0, 1)
        ]
        for one in both:
            one.start()
        answers = sorted((said.get(timeout=60) for _ in both), key=len)
        for one in both:
            one.join(60)
        assert answers[0] == "done"
        assert re.search(
            r"run is being written by another process( \(pid \d+\))?; wait for it or choose "
            r"another --out\.$|run holds a patch run with seed=[01] \(this one: [01]\); choose",
            answers[1],
        )
        assert names(out.parent) == ["run"]
        assert interp.PatchResult.load(out).provenance["options"]["seed"] in (0, 1)


def test_a_locked_folder_names_the_process(tmp_path: Path):
    says = rf"run is being written by another process \(pid {os.getpid()}\); wait for it or choose"
    with RunFolder.open(tmp_path / "run", "test", OPTIONS) as run:
        run.step("a", lambda: arrays(0), ARRAYS)
        with pytest.raises(RunFolderError, match=says):
            small_run(tmp_path / "run", force=True)
        assert json.loads((run.work / "run.json").read_text())["options"] == OPTIONS
