"""MQuAKE-Remastered, zsRE in both forms and KnowEdit; what is refused, and what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from edit_records import MQUAKE, needs_data, parse_cases, record
from input_examples import COUNTERFACT, KNOWEDIT, RIPPLE, ZSRE, ZSRE_ROME, remastered

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS, SCORES
from circuits.editing.evaluation.case_selection import CONTAMINATED, TOUCHED, _in_the_way
from circuits.editing.evaluation.cases import NamedPrompt, side_by_side
from circuits.editing.evaluation.formats import FORMATS, load_benchmark
from circuits.editing.evaluation.single_edits import ASK
from interp.errors import DataError

ROWS = {
    "mquake": record(7, "Book01", ["author", "citizenship"], {1: "Land03"}),
    "mquake_remastered": remastered(7, "Book01", ["author", "citizenship"], {1: "Land03"}),
    "counterfact": COUNTERFACT,
    "zsre": ZSRE,
    "zsre_rome": ZSRE_ROME,
    "ripple_edits": RIPPLE,
    "knowedit": KNOWEDIT,
}


def written(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_every_format_is_recognised_and_measured(tmp_path: Path):
    assert (
        set(ROWS) == set(FORMATS) == set(BENCHMARK_METRICS) == {"mquake", "mquake_remastered", *ASK}
    )
    for name, row in ROWS.items():
        found = load_benchmark(written(tmp_path, [row]))
        assert (found.format, len(found), found.excluded) == (name, 1, ())
        assert load_benchmark(tmp_path / "rows.json", format=name).records == found.records


def test_metrics_of_one_name_are_one_thing():
    ours = {d.name for own in BENCHMARK_METRICS.values() for d in own if d.whose == "ours"}
    by_name: dict[str, set[str]] = {}
    for own in BENCHMARK_METRICS.values():
        assert len({d.name for d in own}) == len(own)
        for one in own:
            by_name.setdefault(one.name, set()).add(one.protocol)
            assert one.whose == "ours" or one.name not in ours
    assert all(len(protocols) == 1 for protocols in by_name.values())
    for format, (score, parts) in SCORES.items():
        assert {score, *parts} <= {d.name for d in BENCHMARK_METRICS[format]}


def test_remastered_rows_are_mquake_s_written_flat(tmp_path: Path):
    (flat,) = load_benchmark(written(tmp_path, [ROWS["mquake_remastered"]]))
    (nested,) = parse_cases([ROWS["mquake"]], "rows.json")
    assert flat == nested
    assert len(load_benchmark(tmp_path / "rows.json", "1000/edited")) == 1
    with pytest.raises(DataError, match="of split '1/edited'; it has 1/unedited, 1000/edited"):
        load_benchmark(tmp_path / "rows.json", "1/edited")


def test_zsre_has_two_targets(tmp_path: Path):
    path = written(tmp_path, [ZSRE, ZSRE | {"alt": " "}])
    mend, rome = load_benchmark(path), load_benchmark(path, format="zsre_rome")
    assert [case.fact.target for case in mend] == ["University of Michigan"]
    assert [row.reason for row in mend.excluded] == ["the target of the edit is empty."]
    assert [case.fact.target for case in rome] == ["Trinity College"] * 2
    assert (mend[0].true, rome[0].true) == ("Trinity College", None)
    (form,) = load_benchmark(written(tmp_path, [ZSRE_ROME]))
    for name in ("paraphrases", "neighbours", "neighbour_answer"):
        assert getattr(form, name) == getattr(rome[0], name)
    assert (form.fact.prompt, form.fact.target) == (rome[0].fact.prompt, "Trinity College")
    bare = ZSRE_ROME | {"neighborhood_prompts": [{"prompt": "nq question: a?"}]}
    (row,) = load_benchmark(written(tmp_path, [bare])).excluded
    assert row.reason == "the neighbourhood prompts have no target."


def test_knowedit_in_all_its_ways_to_write_an_answer(tmp_path: Path):
    plain = KNOWEDIT | {"ground_truth": "mayor", "locality": {}, "rephrase": None}
    off = KNOWEDIT | {"subject": "Nobody"}
    flat = {k: KNOWEDIT[k] for k in ("subject", "prompt", "target_new")}
    flat |= {"rephrase_prompt": "Who is Ada?", "locality_prompt": "Bob is a"}
    flat |= {"locality_ground_truth": "painter", "ground_truth": "poet"}
    found = load_benchmark(written(tmp_path, [KNOWEDIT, plain, off, flat]))
    first, second, third = found
    assert [row.id for row in found.excluded] == ["3"]
    assert (first.fact.prompt, first.fact.target) == ("The occupation of {} is", "diver")
    assert (first.true, first.paraphrases) == ("poet", ("Ada works as a",))
    assert first.probes == (
        NamedPrompt("portability/reasoning", "Ada works in the", Answer("sea", ("ocean",))),
        NamedPrompt("portability/subject_aliasing", "Ada K. is a", Answer("diver")),
        NamedPrompt("locality/relation_specificity", "Ada was born in", Answer("Rome")),
    )
    assert (second.true, second.paraphrases, len(second.probes)) == ("mayor", (), 2)
    assert third.paraphrases == ("Who is Ada?",)
    assert third.probes == (NamedPrompt("locality/neighbourhood", "Bob is a", Answer("painter")),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "labels": "b", "concept": "c", "locality": {}}, "WikiBio edits whole sent"),
        ({"input": "a", "output": [], "alternatives": ["b"]}, "zsRE file names no subject"),
    ],
)
def test_files_without_facts_are_refused(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        load_benchmark(written(tmp_path, [row]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mquake", {"questions": []}, "'questions' is []; it must have at least 1 item."),
        ("mquake_remastered", {"requested_rewrite": [{"prompt": "{} is", "subject": "a"}]},
         "'requested_rewrite[0].target_new.str' is missing. (2 more faults.)"),
        ("counterfact", {"requested_rewrite": None},
         "'requested_rewrite' is None; it must be a JSON object."),
        ("zsre", {"answers": "Trinity"}, "'answers' is 'Trinity'; it must be a list."),
        ("zsre_rome", {"paraphrase_prompts": [1]},
         "'paraphrase_prompts[0]' is 1; it must be text. (1 more fault.)"),
        ("ripple_edits", {"edit": {"prompt": "a"}}, "'edit.relation' is missing."),
        ("knowedit", {"portability": {"Reasoning": [{"prompt": "a"}]}},
         "'portability.Reasoning[0].ground_truth' is missing."),
    ],
)  # fmt: skip
def test_a_damaged_row_is_one_sentence(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
):
    path = written(tmp_path, [ROWS[name] | change])
    with pytest.raises(DataError) as error:
        load_benchmark(path)
    assert str(error.value) == f"rows.json, row 1: {message}"


def test_damaged_files_are_one_sentence(tmp_path: Path):
    path = tmp_path / "rows.json"
    for text, message in (
        ("[{", "not valid JSON"),
        ("{}", "holds a dict, not a list of edit cases"),
        ("[1]", "row 1: a int, not a JSON object"),
        ("[]", "holds no rows"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message) as error:
            load_benchmark(path)
        assert "\n" not in str(error.value)


def test_contaminated_cases_are_told_from_those_that_touch():
    edited = record(1, "Book01", ["author", "citizenship"], {1: "Land03"})
    same = record(2, "Book07", ["author", "citizenship"], {1: "Land03"})  # the same edit
    other = record(3, "Book07", ["author", "citizenship", "capital"], {2: "Town03"})
    beside = record(4, "Book07", ["author", "born"], {1: "Town02"})
    cases = list(parse_cases([edited, same, other, beside]))
    kept = side_by_side(cases)
    assert [case.id for case in kept] == ["1"]
    assert _in_the_way(cases, kept) == {CONTAMINATED: 1, TOUCHED: 2}
    assert not any(_in_the_way(cases, cases).values())


@needs_data
@pytest.mark.parametrize("path", sorted(MQUAKE.glob("*.json")), ids=lambda path: path.stem)
def test_all_files_at_hand_are_read_whole_as_mquake(path: Path):
    found = load_benchmark(path)
    assert (found.format, found.excluded) == ("mquake", ())
    assert len(found) == len(json.loads(path.read_text()))
