"""Benchmark files to cases: self-written rows, the samples at hand, and what is wrong with rows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from edit_records import MQUAKE, needs_data, parse_cases, record, records
from input_examples import COUNTERFACT, ZSRE

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.formats import load_benchmark, load_cases
from datasets import Dataset
from interp.errors import DataError


def written(tmp_path: Path, rows: Any, name: str = "rows.json") -> Path:
    path = tmp_path / name
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return path


def one(**changes: Any) -> dict[str, Any]:
    return record(7, "Book01", ["author", "citizenship"], {1: "Land03"}) | changes


def test_a_record_becomes_a_case(tmp_path: Path):
    (case,) = load_cases(written(tmp_path, [one(split="test")]))
    assert (case.id, case.split, case.where) == ("7", "test", "rows.json, row 1")
    assert (case.subject, case.bridges) == ("Book01", ("Writer01",))
    assert case.relations == ("author", "citizenship")
    assert case.cluster == "Book01 | author | Writer01 | citizenship | Land01"
    (fact,) = case.facts
    assert (fact.cloze, fact.target) == ("Writer01 is a citizen of", "Land03")
    assert fact.question == "Which country is {} a citizen of?"
    assert (case.edited_hops, case.position, case.n_hops, case.n_edits) == ((1,), "last", 2, 1)
    assert case.originals == (Answer("Land01"),)
    assert case.targets == (Answer("Land03"),)
    assert case.answer == Answer("Land01", ("Land01 Town",))
    assert case.new_answer == Answer("Land03")
    assert case.paraphrases[0] == "Which country is Writer01 a citizen of?"


def test_positions_of_all_kinds():
    cases = parse_cases(records())
    assert len(cases) == 60 and not cases.excluded
    count = Counter((case.n_hops, case.n_edits, case.position) for case in cases)
    assert count == {
        (2, 1, "first"): 12,
        (2, 1, "last"): 24,
        (3, 1, "middle"): 12,
        (3, 2, "several"): 12,
    }
    several = next(case for case in cases if case.n_edits == 2)
    assert several.edited_hops == (0, 2)
    # the second edit is of the new chain's country, which the old chain never reaches
    assert several.facts[1].subject == several.new_subjects[2] != several.subjects[2]
    assert several.edited_subjects[1].text == several.facts[1].subject
    assert len({case.cluster for case in cases}) == 36


def test_rewrites_in_any_order_are_put_in_the_chain_s():
    row = record(1, "Book00", ["author", "citizenship"], {0: "Writer02", 1: "Land00"})
    back = row | {"requested_rewrite": row["requested_rewrite"][::-1]}
    assert parse_cases([row]).records == parse_cases([back]).records


def test_implicit_subjects_and_extended_answers():
    row = one(answer_extended=["The First Land"])
    row["requested_rewrite"][0]["implicit"] = ["the author of Book07"]
    (case,) = parse_cases([row])
    assert case.answer.names == ("Land01", "Land01 Town", "The First Land")


def test_wikidata_ids_are_the_relations_where_there_are_any():
    row = one()
    row["orig"]["triples"] = [["Q1", "P50", "Q2"], ["Q2", "P27", "Q3"]]
    (case,) = parse_cases([row])
    assert case.relations == ("P50", "P27") and case.facts[0].relation == "P27"
    assert case.subject == "Book01"


def test_a_split_a_slice_and_other_clusters(tmp_path: Path):
    rows = [r | {"split": "test" if n % 4 else "train"} for n, r in enumerate(records())]
    path = written(tmp_path, rows, "rows.jsonl")
    cases = load_cases(path, "train")
    assert [case.id for case in cases] == [str(n) for n in range(0, 60, 4)]
    assert len(cases[:3]) == 3 and repr(cases[:3]) == "Cases(3 from rows.jsonl; 0 excluded)"
    assert all(case.n_edits == 2 for case in cases.where(lambda case: case.n_edits == 2))
    with pytest.raises(DataError, match="of split 'dev'; it has test, train"):
        load_cases(path, "dev")


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch):
    # the Hub is out of reach in tests; the rows are what `load_dataset` would give
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: Dataset.from_list(records()))
    cases = load_cases("someone/mquake")
    assert len(cases) == 60 and cases[0].where == "someone/mquake, row 1"


def test_what_cannot_be_edited_is_excluded_with_its_reason():
    off, at_odds, longer = one(case_id=1), one(case_id=2), one(case_id=3)
    off["requested_rewrite"][0]["subject"] = "Writer05"
    at_odds["requested_rewrite"] = [
        at_odds["requested_rewrite"][0],
        at_odds["requested_rewrite"][0] | {"target_new": {"str": "Land00"}},
    ]
    longer["new_single_hops"] = longer["new_single_hops"] * 2
    leaky = one(case_id=4)
    leaky["requested_rewrite"][0]["implicit"] = ["the author of Book07", "the author of Book01"]
    cases = parse_cases([off, one(), at_odds, longer, leaky], "sample")
    assert [case.id for case in cases] == ["7"]
    assert [row.id for row in cases.excluded] == ["1", "2", "3", "4"]
    assert "'the author of Book01' names 'Book01'" in cases.excluded[3].reason
    assert "stands at no hop" in cases.excluded[0].reason
    assert cases.excluded[2].where == "sample, row 4"
    assert cases.excluded[2].reason == "the edits turn 2 hops into 4."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"case_id": ""}, "rows, row 1: case_id '' is missing"),
        ({"questions": []}, "row 1: 'questions' is \\[\\]; it must have at least 1 item"),
        ({"single_hops": [{"question": "?"}]}, r"row 1: 'single_hops\[0\].cloze' is missing"),
        (
            {"requested_rewrite": [{"prompt": "{} is", "subject": "a"}]},
            r"'requested_rewrite\[0\].target_new.str' is missing",
        ),
        ({"orig": {"triples_labeled": [["a", "b", "c"]]}}, "must hold 2 triples"),
    ],
)
def test_malformed_rows_are_named(change: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        parse_cases([one(**change)], "rows")


def test_empty_files_and_repeated_ids_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no rows"):
        load_cases(written(tmp_path, []))
    with pytest.raises(DataError, match="row 2: case_id '7' was used before"):
        load_cases(written(tmp_path, [one(), one()]))


@needs_data
@pytest.mark.parametrize(
    ("name", "n", "positions"),
    [
        ("two_hop_counterfactual_600", 600, {"first": 278, "last": 322}),
        ("mquake_cf_3hop_60", 60, {"first": 12, "middle": 13, "last": 2, "several": 33}),
        ("mquake_cf_3k_v2_2hop_12", 12, {"first": 4, "last": 1, "several": 7}),
    ],
)
def test_the_samples_load_whole(name: str, n: int, positions: dict[str, int]):
    path = MQUAKE / f"{name}.json"
    cases = load_cases(path)
    rows = json.loads(path.read_text())
    assert (len(cases), len(cases.excluded)) == (n, 0)
    assert Counter(case.position for case in cases) == positions
    for case, row in zip(cases, rows, strict=True):
        assert sorted(case.edited_hops) == sorted(row["orig"]["edit_triples_idx"])
        assert case.relations[case.edited_hops[0]] == case.facts[0].relation
        for fact, at in zip(case.facts, case.edited_hops, strict=True):
            assert fact.cloze == case.new_hops[at].cloze
            assert fact.asked == case.new_hops[at].question


# --- single-edit benchmarks --------------------------------------------------------------------


def test_counterfact(tmp_path: Path):
    (found,) = load_benchmark(written(tmp_path, [COUNTERFACT]))
    assert (found.id, found.fact.cloze) == ("0", "The mother tongue of Danielle Darrieux is")
    assert (found.fact.target, found.true, found.fact.relation) == ("English", "French", "P103")
    assert found.neighbours == ("The native language of Montesquieu is",)
    paired = COUNTERFACT | {"neighborhood_prompts": [{"prompt": "p", "target": "French"}]}
    assert load_benchmark(written(tmp_path, [paired]))[0].neighbours == ("p",)
    with pytest.raises(DataError, match="row 1: 'paraphrase_prompts' is None; it must be a list"):
        load_benchmark(written(tmp_path, [COUNTERFACT | {"paraphrase_prompts": None}]))


def test_zsre(tmp_path: Path):
    rows = [ZSRE, ZSRE | {"subject": "Book09"}]
    found = load_benchmark(written(tmp_path, rows, "rows.jsonl"))
    assert len(found) == 1 and "stands 0 times" in found.excluded[0].reason
    assert found[0].fact.prompt == "What university did {} attend?"
    assert (found[0].fact.target, found[0].true) == (ZSRE["alt"], "Trinity College")
    assert found[0].paraphrases == ("Where did Watts Humphrey study?",)
    assert found[0].neighbours == ("who played Desmond Doss's father",)
    assert found[0].neighbour_answer == "Hugo Weaving"
    with pytest.raises(DataError, match="row 1: 'loc_ans' is None"):
        load_benchmark(written(tmp_path, [ZSRE | {"loc_ans": None}]))


def query(prompt: str, *answers: str) -> dict[str, Any]:
    named = [{"value": answer, "aliases": [f"{answer} II"]} for answer in answers]
    return {"prompt": prompt, "answers": named, "query_type": "regular"}


def edit(prompt: str, relation: str) -> dict[str, Any]:
    return {"prompt": prompt, "relation": relation, "subject_id": "Q1", "target_id": "Q2"}


CITIZEN = "The name of the country of citizenship of Ada of York is"
RIPPLE = {
    "example_type": "popular",
    "edit": edit(f"{CITIZEN} Land03.", "COUNTRY_OF_CITIZENSHIP")
    | {"previous_fact": edit(f"{CITIZEN} Land01.", "COUNTRY_OF_CITIZENSHIP")},
    "Relation_Specifity": [
        {
            "test_queries": [query("The name of the mother of Ada of York is", "Eva")],
            "test_condition": "OR",
            "condition_queries": [query("The name of the mother of Ada of York is", "Eva")],
        }
    ],
    "Logical_Generalization": [
        {
            "test_queries": [query("a", "Town01", "Town02"), query("b", "Town03")],
            "test_condition": "AND",
            "condition_queries": [],
        },
        {"test_queries": [query("c")], "test_condition": "OR", "condition_queries": []},
    ],
    "Compositionality_I": [],
}


def test_ripple(tmp_path: Path):
    path = written(tmp_path, [RIPPLE])
    (found,) = load_benchmark(path)
    assert found.fact.prompt == "The name of the country of citizenship of {} is"
    assert (found.fact.subject, found.fact.target) == ("Ada of York", "Land03")
    assert found.true == "Land01"
    assert [case.id for case in load_benchmark(path, "popular")] == ["1"]
    with pytest.raises(DataError, match="of split 'random'; it has popular"):
        load_benchmark(path, "random")
    (_, logic), (_, relation) = found.tests
    assert [name for name, _ in found.tests] == ["logical_generalization", "relation_specificity"]
    both = logic.test_queries[0]
    assert both.passed("Town02 and Town01 II") and not both.passed("Town01")
    assert logic.passed([True, True]) and not logic.passed([True, False])
    assert relation.passed([False, True]) and not relation.passed([False, False])
    assert relation.condition_queries[0].prompt == "The name of the mother of Ada of York is"


@pytest.mark.parametrize(
    ("statement", "relation", "parts"),
    [
        ("The name of the capital city of Land01 is Town01.", "CAPITAL", ("Land01", "Town01")),
        ("The names of the siblings of A are B.", "SIBLING", ("A", "B")),
        ("The name of the currency in Land01 is U.S..", "CURRENCY", ("Land01", "U.S.")),
        ("The place of birth of A is B.", "PLACE_OF_BIRTH", ("A", "B")),
        ("The gender of A is B.", "SEX_OR_GENDER", ("A", "B")),
        ("The number of children A has is 3.", "NUMBER_OF_CHILDREN", ("A", "3")),
        ("The name of the award A won is B.", "AWARD_RECEIVED", ("A", "B")),
        ("The name of the sports team which A is a member of is B.", "X", ("A", "B")),
        ("A is followed by B.", "FOLLOWED_BY", ("A", "B")),
        ("The name of the director of Life is Long is B.", "DIRECTOR", None),
        ("Nothing like it.", "DIRECTOR", None),
    ],
)
def test_the_subject_of_a_ripple_edit(
    tmp_path: Path, statement: str, relation: str, parts: tuple[str, str] | None
):
    found = load_benchmark(written(tmp_path, [RIPPLE | {"edit": edit(statement, relation)}]))
    assert [(r.fact.subject, r.fact.target) for r in found] == ([parts] if parts else [])
    assert len(found.excluded) == (0 if parts else 1)


def test_malformed_ripple_rows(tmp_path: Path):
    with pytest.raises(DataError, match="row 1: no criterion"):
        load_benchmark(written(tmp_path, [{"edit": RIPPLE["edit"]}]))
    test = RIPPLE["Relation_Specifity"][0] | {"test_condition": "XOR"}
    with pytest.raises(DataError, match="test_condition' is unknown: 'XOR'"):
        load_benchmark(written(tmp_path, [RIPPLE | {"Relation_Specifity": [test]}]))


def test_the_format_is_recognised_or_named(tmp_path: Path):
    rows = {"counterfact": COUNTERFACT, "zsre": ZSRE, "ripple_edits": RIPPLE, "mquake": one()}
    for name, row in rows.items():
        path = written(tmp_path, [row])
        assert load_benchmark(path).format == load_benchmark(path, format=name).format == name
    with pytest.raises(DataError, match="row 1: the keys .* are not those of one of mquake_re"):
        load_benchmark(written(tmp_path, [{"prompt": "?"}]))
    with pytest.raises(DataError, match="'subject' is missing"):
        load_benchmark(written(tmp_path, [COUNTERFACT]), format="zsre")


def test_a_row_of_a_split_is_named_by_its_place_in_the_file(tmp_path: Path):
    off = one(case_id=2, split="test")
    off["requested_rewrite"][0]["subject"] = "Writer05"
    rows = [one(case_id=1, split="train"), off, one(case_id=3, split="test")]
    cases = load_benchmark(written(tmp_path, rows), "test")
    assert [case.where for case in cases] == ["rows.json, row 3"]
    assert [row.where for row in cases.excluded] == ["rows.json, row 2"]


@pytest.mark.parametrize("split", [{"1000": 5}, {"1000": {"a": "b"}}, 5, [None]])
def test_a_damaged_split_is_refused(tmp_path: Path, split: Any):
    with pytest.raises(DataError, match="rows.json"):
        load_benchmark(written(tmp_path, [one(split=split)]), "test")


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="unknown format 'mquak'. Did you mean 'mquake'"):
        load_benchmark(written(tmp_path, [one()]), format="mquak")


def test_a_ripple_test_without_queries_is_counted_and_not_failed(tmp_path: Path):
    empty = RIPPLE["Relation_Specifity"][0] | {"test_queries": []}
    row = RIPPLE | {"Relation_Specifity": [empty, empty | {"test_queries": None}]}
    (case,) = load_benchmark(written(tmp_path, [row]))
    assert [name for name, _ in case.tests] == ["logical_generalization"]
    assert case.n_unanswered == 3  # one without a named answer


def test_a_knowedit_probe_without_an_answer_is_counted(tmp_path: Path):
    probes = [{"prompt": "a", "ground_truth": [["b"]]}, {"prompt": "c", "ground_truth": []}]
    row = {"subject": "Ada", "prompt": "Ada was born in", "target_new": "York"}
    row |= {"locality": {"Forgetfulness": probes}, "locality_prompt": "d"}
    (case,) = load_benchmark(written(tmp_path, [row]))
    assert [probe.prompt for probe in case.probes] == ["a"] and case.n_unanswered == 2
