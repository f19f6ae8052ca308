"""Control questions: what they may be about, that they repeat, and that keys stay clear of them."""

from edit_records import FACTS, MQUAKE, parse_cases, records

from circuits.editing.evaluation.answers import normalised
from circuits.editing.evaluation.card_questions import ChainFacts
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    control_questions,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.fact_questions import EditedFact
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.fact_prompts import contrasts

CASES = parse_cases(records())
BY_POSITION = {(case.n_hops, case.position): case for case in CASES}


def everything(cases) -> set[str]:
    return {q for c in cases for q in (*c.questions, *(hop.question for hop in c.hops))}


POOL = QuestionPool.of(CASES, everything(CASES))


def sampled() -> list:
    """Cases and the pool of each: the small world's, and the two-hop sample's where it is."""
    path = MQUAKE / "two_hop_counterfactual_600.json"
    found = [(case, POOL) for case in CASES]
    if path.is_file():
        cases = load_cases(path)
        pool = QuestionPool.of(cases, everything(cases))
        found += [(case, pool) for case in cases[::6]]
    return found


def test_the_pool_holds_each_known_question_once():
    assert sum(map(len, POOL.facts.values())) == len(FACTS)
    assert len(POOL.facts["author"]) == 12
    # three wordings of each book's three chains; the same chains stand in several cases
    assert len(POOL.chains["author", 0]) == 3 * 36
    assert len(POOL.chains["citizenship", 1]) == 3 * 24
    only = QuestionPool.of(CASES, {"Who wrote Book03?"})
    assert [fact.text for fact in only.facts["author"]] == ["Who wrote Book03?"]
    assert not only.chains


def test_probes_have_nothing_to_do_with_the_edit():
    for case, pool in sampled():
        check_probes(case, pool)


def check_probes(case, pool):
    probes = control_questions(case, pool)
    relations = {case.relations[at] for at in case.edited_hops}
    edited = {normalised(name) for answer in case.edited_subjects for name in answer.names}
    new = (*case.targets, case.new_answer)
    texts = [q.text for questions in probes.values() for q in questions]
    assert len(texts) == len(set(texts))
    assert set(texts).isdisjoint({*case.questions, *(hop.question for hop in case.hops)})
    for kind, questions in probes.items():
        for q in questions:
            assert not any(q.answer.overlaps(answer) for answer in new)
            if kind == "neighbour":
                assert q.entities <= edited and relations.isdisjoint(q.relations)
                continue
            assert edited.isdisjoint(q.entities)
            assert not any(a.lenient(q.text) for a in case.edited_subjects)
            if kind == "same_relation":
                assert len(q.relations) == 1 and q.relations[0] in relations
            if kind == "same_answer":
                assert any(q.answer.overlaps(old) for old in case.originals)
            if kind == "control_two_hop":
                assert len(q.relations) > 1
                assert any(
                    q.relations[at : at + 1] == (case.relations[at],) for at in case.edited_hops
                )


def test_preservation_keys_share_no_entity_with_what_is_scored():
    for case, pool in sampled():
        check_keys(case, pool)


def check_keys(case, pool):
    scored = control_questions(case, pool)
    keys = preservation_set(case, pool, scored)
    probed = {e for questions in scored.values() for q in questions for e in q.entities}
    hops = (*case.hops, *case.new_hops)
    own = {normalised(case.subject)} | {key for hop in hops for key in hop.answer.keys}
    relations = {case.relations[at] for at in case.edited_hops}
    for kind, questions in keys.items():
        for q in questions:
            assert probed.isdisjoint(q.entities) and own.isdisjoint(q.entities)
            assert (len(q.relations) > 1) == (kind == "two_hop")
            if kind != "two_hop":
                assert (q.relations[0] in relations) == (kind == "same_relation")


def test_the_small_world_s_probes_by_hand():
    case = BY_POSITION[2, "last"]  # Book11's, of where Writer05 was born: Town02 to Town00
    assert case.facts[0].cloze == "Writer05 was born in"
    probes = control_questions(case, POOL, k=20)
    assert {q.text for q in probes["neighbour"]} == {"Which country is Writer05 a citizen of?"}
    born = {f"Where was Writer{n:02} born?" for n in (1, 2, 4)}  # 0 and 3 have the new answer
    answered = {"Where was Writer02 born?", "What is the capital of Land02?"}
    assert {q.text for q in probes["same_answer"]} == answered
    assert {q.text for q in probes["same_relation"]} == born - answered
    # the chains of the books of Writer 1, 2 and 4
    assert {q.subjects for q in probes["control_two_hop"]} == {
        (f"Book{n:02}", f"Writer{n % 6:02}") for n in (1, 2, 4, 7, 8, 10)
    }


def test_related_relations_are_asked_of_the_same_subjects():
    by_kind = {"last": {"citizenship"}, "first": set()}  # of where Writer05 was born; of a book's
    for position, expected in by_kind.items():
        case = BY_POSITION[2, position]
        assert POOL.related(case) == expected
        scored = control_questions(case, POOL)
        asked = {q.relations[0] for q in scored["neighbour"]}
        assert asked == expected  # half of one relation, rounded up
        spared = preservation_set(case, POOL, scored)
        assert not spared["related"]
        keys = preservation_set(case, POOL, {**scored, "neighbour": ()})
        assert {q.relations[0] for q in keys["related"]} == expected
        others = {q.relations[0] for q in keys["other_relation"]}
        assert others and others.isdisjoint(expected | set(case.relations[case.edited_hops[0]]))
        assert [k.relation for k in preserved_of(keys) if k.related] == [
            q.relations[0] for q in keys["related"]
        ]
    # one subject in common may be a namesake
    some = {**POOL.facts, "citizenship": POOL.facts["citizenship"][:1]}
    assert QuestionPool(some, POOL.chains).related(BY_POSITION[2, "last"]) == set()


def test_an_editor_is_not_given_what_the_subject_is_asked_afterwards():
    chains = [case for case in load_cases("multihop_chains") if case.split == "design"]
    pool = QuestionPool.of(chains, everything(chains))
    n_scored = n_given = 0
    for case in (c for c in chains[::4] if c.n_edits == 1):
        scored = control_questions(case, pool)
        given = contrasts(case.facts[0], preserved_of(preservation_set(case, pool, scored)))
        asked = {r for q in scored["neighbour"] for r in q.relations}
        assert asked.isdisjoint(q.relation for q in given)
        assert {q.text for q in scored["neighbour"]}.isdisjoint(q.about(q.subject) for q in given)
        n_scored, n_given = n_scored + len(scored["neighbour"]), n_given + len(given)
    assert n_scored > 20 and n_given > 20


def test_draws_repeat_and_depend_on_the_seed():
    case = BY_POSITION[2, "first"]
    again = [control_questions(case, POOL, k=3, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    assert all(len(questions) <= 3 for questions in again[0].values())
    some, more = control_questions(case, POOL, k=3), control_questions(case, POOL, k=30)
    assert set(some["control_two_hop"]) <= set(more["control_two_hop"])


def test_only_known_questions_are_drawn():
    known = {q for q in everything(CASES) if "01" not in q}
    pool = QuestionPool.of(CASES, known)
    for case in CASES:
        probes = control_questions(case, pool)
        keys = preservation_set(case, pool, probes)
        drawn = [q for found in (probes, keys) for questions in found.values() for q in questions]
        assert {q.text for q in drawn} <= known


def test_an_empty_pool_gives_no_probes():
    case, pool = CASES[0], QuestionPool.of(CASES, ())
    probes = control_questions(case, pool)
    assert not any(probes.values())
    assert not any(preservation_set(case, pool, probes).values())


def test_an_editor_is_not_given_what_implies_the_old_fact():
    """Of "Which month comes before April?", "Which month comes after March?" is scored."""
    chains = load_cases("multihop_chains", "test")
    facts = ChainFacts(QuestionPool.of(chains, everything(chains)))
    n_implying = 0
    for case in (c for c in chains[:400] if c.position == "last"):
        about = (case.facts, case.targets, case.originals, case.edited_subjects)
        (one,) = map(EditedFact, *about)
        implying = {q.text for q in facts.implying(one.fact.relation, one)}
        if implying:
            scored = control_questions(case, facts.pool, 2)
            given = preservation_set(case, facts.pool, scored, 8)
            assert implying.isdisjoint(q.text for questions in given.values() for q in questions)
        n_implying += bool(implying)
    assert n_implying > 20
