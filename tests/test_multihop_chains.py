"""The multi-hop set: the file is what its facts make it, chains link, splits are apart."""

import json
import re
import sys
from collections import Counter, defaultdict

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "datasets/build"))
import multihop_chains as chains
from multihop_facts import FACTS
from multihop_known import rows_of, tables

PATH = ROOT / "datasets" / "multihop_chains.json"


@pytest.fixture(scope="module")
def knowledge():
    return chains.load_knowledge()


@pytest.fixture(scope="module")
def cases():
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def names():
    """All names of each entity, straight from the file of facts."""
    aliases = json.loads(FACTS.read_text(encoding="utf-8"))["aliases"]
    other = {entity: listed.split("; ") for entity, listed in aliases.items()}
    return lambda entity: [entity, *other.get(entity, [])]


def says(text, names):
    found = (rf"(?<!\w){re.escape(name)}(?!\w)" for name in names)
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in found)


def triples(case, key="triples_labeled"):
    return [tuple(triple) for triple in case["orig"][key]]


def test_the_file_is_what_the_facts_make_it(knowledge):
    cases, _ = chains.build(knowledge)
    assert chains.as_text(cases) == PATH.read_text(encoding="utf-8")


def test_there_are_as_many_as_promised(cases):
    of = {case["chain_id"]: triples(case) for case in cases}
    hops = Counter(len(chain) for chain in of.values())
    assert hops[2] + hops[3] >= 2000
    assert hops[2] > hops[3] >= 300
    assert len({relation for chain in of.values() for _, relation, _ in chain}) >= 12
    assert len({bridge for case in cases for bridge in case["bridge"]}) >= 50
    assert [case["case_id"] for case in cases] == list(range(len(cases)))
    assert len(set(map(tuple, of.values()))) == len(of)
    three = [case for case in cases if len(case["single_hops"]) == 3]
    two_edits = sum(len(case["requested_rewrite"]) == 2 for case in three)
    assert 0.25 < two_edits / len(three) < 0.4
    for split in ("design", "test"):
        share = sum(case["split"] == split for case in cases) / len(cases)
        assert 0.45 < share < 0.55
    assert PATH.stat().st_size < 10e6


def test_fields_are_those_of_mquake_and_agree_with_the_triples(cases, names):
    for case in cases:
        old, new = triples(case), triples(case, "new_triples_labeled")
        assert len(case["questions"]) == len(set(case["questions"])) == 3
        for hops, chain in ((case["single_hops"], old), (case["new_single_hops"], new)):
            assert [hop["answer"] for hop in hops] == [o for _, _, o in chain]
            assert all(s in hop["question"] for hop, (s, _, _) in zip(hops, chain, strict=True))
            assert all(s in hop["cloze"] for hop, (s, _, _) in zip(hops, chain, strict=True))
            assert all([h["answer"], *h["answer_alias"]] == names(h["answer"]) for h in hops)
        assert [case["answer"], *case["answer_alias"]] == names(old[-1][2])
        assert [case["new_answer"], *case["new_answer_alias"]] == names(new[-1][2])
        at = case["orig"]["edit_triples_idx"]
        assert case["edited_hop"] == at[0]
        assert triples(case, "edit_triples") == [new[i] for i in at]
        for i, edit in zip(at, case["requested_rewrite"], strict=True):
            assert (edit["subject"], edit["relation_id"], edit["target_new"]["str"]) == new[i]
            assert edit["prompt"].count("{}") == 1
            filled = edit["prompt"].replace("{}", edit["subject"])
            assert filled == case["new_single_hops"][i]["cloze"]
            assert edit["question"] == case["new_single_hops"][i]["question"]
            assert len(edit["implicit"]) == len(edit["implicit_triples"]) <= 6


def test_chains_link_and_only_the_edited_hops_break_with_the_facts(cases, knowledge):
    for case in cases:
        old, new = triples(case), triples(case, "new_triples_labeled")
        for chain in (old, new):
            assert all(a[2] == b[0] for a, b in zip(chain, chain[1:], strict=False))
        assert case["bridge"] == [o for _, _, o in old[:-1]]
        assert old[0][0] == new[0][0]
        assert [r for _, r, _ in old] == [r for _, r, _ in new]
        assert all(knowledge.of[s, r].object == o for s, r, o in old)
        edited = case["orig"]["edit_triples_idx"]
        for i, (s, r, o) in enumerate(new):
            assert (knowledge.of[s, r].object != o) == (i in edited)
        for i, edit in zip(edited, case["requested_rewrite"], strict=True):
            s, r, o = new[i]
            assert edit["target_true"]["str"] == knowledge.of[s, r].object != o
            assert any(fact.object == o and fact.relation.name == r for fact in knowledge.facts)


def test_an_edit_changes_the_answer_beyond_an_alias(cases, names):
    for case in cases:
        assert not says(case["new_answer"], names(case["answer"]))
        assert not says(case["answer"], names(case["new_answer"]))


def test_no_question_gives_a_bridge_or_an_answer_away(cases, names):
    for case in cases:
        source = case["orig"]["triples_labeled"][0][0]
        hidden = [*case["bridge"], case["answer"], case["new_answer"]]
        hidden += [o for _, _, o in triples(case, "new_triples_labeled")]
        assert not any(says(source, names(entity)) for entity in hidden), case["case_id"]
        assert all(source in question for question in [*case["questions"], case["comp_cloze"]])


def test_implicit_phrases_mean_the_subject_and_name_neither_it_nor_the_own_chain(
    cases, names, knowledge
):
    n_bridges = 0
    for case in cases:
        chain = [*triples(case), *triples(case, "new_triples_labeled")]
        own = {entity for s, _, o in chain for entity in (s, o)}
        for edit in case["requested_rewrite"]:
            own.add(edit["target_true"]["str"])
            avoid = own | {edit["subject"]}
            for phrase, (source, relation, subject) in zip(
                edit["implicit"], edit["implicit_triples"], strict=True
            ):
                assert subject == edit["subject"]
                assert knowledge.of[source, relation].object == subject
                assert source in phrase
                assert source not in own
                assert not any(says(phrase, names(entity)) for entity in avoid), (phrase, avoid)
            assert len(set(edit["implicit"])) == len(edit["implicit"])
            n_bridges += bool(edit["implicit"]) and edit["subject"] in case["bridge"]
    assert n_bridges > 1000


def test_no_bridge_is_in_both_splits_before_or_after_an_edit(cases):
    of = defaultdict(set)
    by_chain = defaultdict(set)
    for case in cases:
        after = [o for _, _, o in triples(case, "new_triples_labeled")[:-1]]
        for bridge in [*case["bridge"], *after]:
            of[bridge].add(case["split"])
        by_chain[case["chain_id"]].add(case["split"])
    assert {bridge for bridge, splits in of.items() if len(splits) > 1} == set()
    assert all(len(splits) == 1 for splits in by_chain.values())


def test_targets_are_spread_over_objects(cases):
    """No counterfactual object takes more than a tenth of a relation that has thirty or more."""
    drawn = defaultdict(Counter)
    for case in cases:
        for edit in case["requested_rewrite"]:
            drawn[edit["relation_id"]][edit["target_new"]["str"]] += 1
    for relation, counts in drawn.items():
        if counts.total() >= 100 and len(counts) >= 30:
            assert max(counts.values()) <= 0.1 * counts.total(), (relation, counts.most_common(3))


def test_every_sentence_is_whole(cases):
    for case in cases:
        texts = [*case["questions"], *(hop["question"] for hop in case["single_hops"])]
        assert all(text.endswith("?") and text[0].isupper() for text in texts)
        for text in [*texts, case["comp_cloze"], *(hop["cloze"] for hop in case["single_hops"])]:
            assert "{" not in text
            assert "  " not in text
            assert " the the " not in text


def test_what_is_known_is_counted_by_chain():
    def case(chain, split, questions, hops):
        triples = [["a", f"r{i}", "b"] for i in range(len(hops))]
        return {
            "chain_id": chain,
            "split": split,
            "single_hops": [{"question": hop} for hop in hops],
            "questions": questions,
            "orig": {"triples_labeled": triples},
        }

    cases = [
        case(0, "design", ["no", "yes", "no"], ["yes", "yes"]),
        case(0, "design", ["no", "yes", "no"], ["yes", "yes"]),  # another edit of the chain
        case(1, "test", ["no", "no", "no"], ["yes", "yes"]),
        case(2, "test", ["yes", "no", "no"], ["no", "yes"]),
        case(3, "test", ["yes", "no", "no"], ["yes", "yes", "yes"]),
    ]
    rows = rows_of(cases, frozenset({"yes"}))
    assert [row.composed for row in rows] == [True, False, False, True]
    lines = tables(rows).splitlines()
    assert "| all | 4 | 3 | 4 | 3 | 2 |" in lines
    assert "| 2 hops, design | 1 | 1 | 1 | 1 | 1 |" in lines
    assert "| 2 hops, test | 2 | 1 | 2 | 1 | 0 |" in lines
    assert "| `r0`, `r1` | 3 | 2 | 3 | 2 | 1 |" in lines
