"""Metrics of single edits, ours and the papers': by hand, and by plain loops over a tiny model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_cases import PLAIN, sharp, single_edit_files
from scipy import stats

from circuits.editing.evaluation import Comparison, ComparisonSettings, compare_methods
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS, SCORES
from circuits.editing.evaluation.case_selection import UNANSWERED, UNUSABLE
from circuits.editing.evaluation.formats import load_benchmark
from circuits.editing.evaluation.intervals import summary
from circuits.editing.evaluation.single_edits import N_OTHERS, N_TOKENS, UNCHANGED, score
from interp.model.model import Model

pytestmark = pytest.mark.usefixtures("cache")


def settings(*methods: str, **options) -> ComparisonSettings:
    return ComparisonSettings(methods=methods, shots=PLAIN, n_tokens=600, **options)


@pytest.fixture(scope="module")
def model() -> Model:
    return sharp()


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return single_edit_files(model, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def compared(model: Model, files: dict[str, Path]) -> dict[str, Comparison]:
    """Every format, edited by fine-tuning, unedited, and with the edit in the prompt."""
    methods = ("ft", "none", "prompt-only")
    return {
        name: compare_methods(model, load_benchmark(file), settings(*methods))
        for name, file in files.items()
    }


# --- by hand -----------------------------------------------------------------------------------


def means(rows: list[tuple], columns: str, format: str) -> pd.Series:
    """Means over edits of the metrics of rows, whose columns beside these are all True."""
    table = pd.DataFrame(rows, columns=columns.split())
    beside = {"right", "known", "held", "edited"} - set(table)
    table = table.assign(**dict.fromkeys(beside, True))
    return summary(score(table, format), harmonic=SCORES.get(format)).set_index("metric")["value"]


def test_counterfact_by_hand():
    rows = [
        ("a", "efficacy", 1.0, 2.0),
        ("b", "efficacy", 2.0, 1.0),
        ("a", "paraphrase", 1.0, 2.0),
        ("a", "paraphrase", 2.0, 1.0),
        ("b", "paraphrase", 1.0, 2.0),
        ("a", "neighbourhood", 3.0, 1.0),
        ("b", "neighbourhood", 1.0, 3.0),
        ("b", "neighbourhood", 3.0, 1.0),
        ("b", "neighbourhood", 3.0, 1.0),
    ]
    found = means(rows, "case kind nll_new nll_true", "counterfact")
    assert (found["efficacy_score"], found["paraphrase_score"]) == (0.5, 0.75)
    assert found["neighbourhood_score"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["efficacy_magnitude"] == pytest.approx(0)
    near, far = np.exp(-1), np.exp(-3)
    expected = (1 + 1 / 3) / 2 * (near - far)
    assert found["neighbourhood_magnitude"] == pytest.approx(expected)
    assert found["counterfact_score"] == pytest.approx(stats.hmean([0.5, 0.75, 5 / 6]))


def test_ties_are_no_success():
    rows = [("a", kind, 1.0, 1.0) for kind in ("efficacy", "paraphrase", "neighbourhood")]
    found = means(rows, "case kind nll_new nll_true", "counterfact")
    assert found[["efficacy_score", "neighbourhood_score", "counterfact_score"]].eq(0).all()


def test_zsre_by_hand():
    rows = [("a", "efficacy", 3 / 4), ("b", "efficacy", 0), ("a", "paraphrase", 1)]
    rows += [("a", "neighbourhood", 1), ("b", "neighbourhood", 0)]
    found = means(rows, "case kind correct", "zsre")
    assert found["efficacy_accuracy"] == pytest.approx((3 / 4 + 0) / 2)
    assert (found["paraphrase_accuracy"], found["unrelated_accuracy"]) == (1, 0.5)
    assert found["zsre_score"] == pytest.approx(stats.hmean([0.375, 1, 0.5]))


def test_what_was_not_known_before_is_not_asked_of_specificity():
    rows = [
        ("a", "efficacy", 0, True, True),
        ("a", "paraphrase", 0, False, True),
        ("a", "neighbourhood", 0, True, True),
        ("a", "neighbourhood", 0, False, True),
        ("a", "neighbourhood", 0, True, False),
        ("b", "efficacy", 0, False, True),
        ("b", "neighbourhood", 0, True, False),
    ]
    found = means(rows, "case kind correct right known", "zsre")
    assert (found["efficacy"], found["paraphrase"], found["specificity"]) == (0.5, 0, 0.5)


def test_ripple_by_hand():
    rows = [
        ("a", "compositionality_1", True, True, True),
        ("a", "compositionality_1", False, True, True),
        ("a", "compositionality_1", True, False, True),  # its conditions failed before the edit
        ("b", "compositionality_2", True, True, True),
        ("c", "compositionality_2", False, True, False),  # the edit itself failed
        ("c", "preservation", True, False, False),
    ]
    found = means(rows, "case kind right held edited", "ripple_edits")
    assert (found["compositionality_1"], found["compositionality_2"]) == (1 / 2, 1)
    assert "preservation" not in found
    assert found["multi_hop"] == pytest.approx((1 / 2 + 1 + 0) / 3)  # failed edits count, too
    assert found["specificity"] == 1


def test_knowedit_by_hand():
    rows = [
        ("a", "efficacy", 1 / 2, 0.0),
        ("a", "paraphrase", 1.0, 0.0),
        ("a", "portability/reasoning", 1.0, 0.0),
        ("a", "portability/reasoning", 0.0, 0.0),
        ("a", "portability/subject_aliasing", 0.0, 0.0),
        ("a", "locality/forgetfulness", 0.0, 1.0),
        ("a", "locality/relation_specificity", 0.0, 1 / 2),
        ("a", "locality/relation_specificity", 0.0, 0.0),
    ]
    found = means(rows, "case kind correct same", "knowedit")
    assert (found["edit_success"], found["rephrase_accuracy"]) == (1 / 2, 1)
    assert found["portability"] == pytest.approx((1 / 2 + 0) / 2)  # over types, not prompts
    assert found["locality"] == pytest.approx((1 + 1 / 4) / 2)


# --- by plain loops ----------------------------------------------------------------------------


class Loops:
    """What a model does on a case, token by token, without a cache or a batch."""

    def __init__(self, model: Model, before: str, n_tokens: int):
        self.model, self.before, self.n_tokens = model, before, n_tokens

    def log_p(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model.hf(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def target(self, prompt: str, target: str) -> tuple[float, list[int], list[int]]:
        """Mean log-probability per token, the target's tokens, and the likeliest ones."""
        start = len(self.model.encode(self.before + prompt))
        ids = list(self.model.encode(f"{self.before}{prompt} {target}"))
        log_p, places = self.log_p(ids), range(start, len(ids))
        mean = float(np.mean([float(log_p[k - 1, ids[k]]) for k in places]))
        return mean, ids[start:], [int(log_p[k - 1].argmax()) for k in places]

    def share(self, prompt: str, target: str) -> float:
        _, own, likeliest = self.target(prompt, target)
        return float(np.mean([a == b for a, b in zip(own, likeliest, strict=True)]))

    def says(self, prompt: str, *names: str) -> bool:
        """Whether one of the names, of one word, is among those that are generated."""
        ids, said = list(self.model.encode(self.before + prompt)), []
        ends = self.model.hf.generation_config.eos_token_id
        for _ in range(self.n_tokens):
            said.append(int(self.log_p([*ids, *said])[-1].argmax()))
            if said[-1] == ends:
                break
        words = self.model.tokenizer.decode(said, skip_special_tokens=True).split()
        return any(name in words for name in names)


def mean(values) -> float:
    found = [float(value) for value in values]
    return float(np.mean(found)) if found else float("nan")


def by_loops(case, format: str, now: Loops, then: Loops) -> dict[str, float]:
    """All metrics of a case from an edited model and the unedited one."""
    new, cloze = case.fact.target, case.fact.cloze
    out = {"efficacy": float(now.says(cloze, new))}
    near = [(text, case.neighbour_answer) for text in case.neighbours]
    if format != "ripple_edits":
        out["paraphrase"] = mean(now.says(text, new) for text in case.paraphrases)
        near += [(p.prompt, p.answer.text) for p in case.probes if p.kind.startswith("locality")]
        kept = [(text, to) for text, to in near if then.says(text, to)]
        out["specificity"] = mean(now.says(text, to) for text, to in kept)
    if format == "counterfact":
        for name, texts, sign in (
            ("efficacy", (cloze,), 1),
            ("paraphrase", case.paraphrases, 1),
            ("neighbourhood", case.neighbours, -1),
        ):
            both = [[np.exp(now.target(text, to)[0]) for to in (new, case.true)] for text in texts]
            out[f"{name}_score"] = mean(sign * (a - b) > 0 for a, b in both)
            out[f"{name}_magnitude"] = mean(sign * (a - b) for a, b in both)
    elif format.startswith("zsre"):
        out["efficacy_accuracy"] = now.share(cloze, new)
        out["paraphrase_accuracy"] = mean(now.share(text, new) for text in case.paraphrases)
        out["unrelated_accuracy"] = mean(
            now.share(f"nq question: {text}?", to) for text, to in near
        )
    elif format == "knowedit":
        types: dict[str, list[float]] = {}
        for one in case.probes:
            after, before = (at.target(one.prompt, one.answer.text)[2] for at in (now, then))
            same = [a == b for a, b in zip(after, before, strict=True)]
            local = one.kind.startswith("locality")
            value = mean(same) if local else now.share(one.prompt, one.answer.text)
            types.setdefault(one.kind, []).append(value)
        for name in ("portability", "locality"):
            out[name] = mean(mean(v) for kind, v in types.items() if kind.startswith(name))
        out["edit_success"] = now.share(cloze, new)
        out["rephrase_accuracy"] = mean(now.share(text, new) for text in case.paraphrases)
        out["multi_hop"] = mean(
            now.says(p.prompt, *p.answer.names) for p in case.probes if p.kind.endswith("reasoning")
        )
    else:
        out |= ripple_by_loops(case, now, then)
    return out


def ripple_by_loops(case, now: Loops, then: Loops) -> dict[str, float]:
    def passes(at: Loops, queries) -> list[bool]:
        return [all(at.says(q.prompt, *a.names) for a in q.named) for q in queries or ()]

    edited = now.says(case.fact.cloze, case.fact.target)
    by_criterion: dict[str, list[float]] = {}
    kept: list[float] = []
    for name, test in case.tests:
        passed = any(passes(now, test.test_queries))
        if all(passes(then, test.condition_queries)) and edited:
            by_criterion.setdefault(name, []).append(passed)
        if name in UNCHANGED and any(passes(then, test.test_queries)):
            kept.append(passed)
    return {name: mean(v) for name, v in by_criterion.items()} | {"specificity": mean(kept)}


@pytest.mark.parametrize("condition", ["none", "prompt-only"])
@pytest.mark.parametrize("name", ["counterfact", "zsre", "zsre_rome", "ripple_edits", "knowedit"])
def test_every_metric_is_what_plain_loops_give(
    model: Model, files: dict[str, Path], compared: dict[str, Comparison], name: str, condition: str
):
    scores = compared[name].scores().query("condition == @condition").set_index("case")
    n_tokens = N_TOKENS.get(name, N_OTHERS)
    defined = [one.name for one in BENCHMARK_METRICS[name] if one.name in scores]
    assert {*defined} | {SCORES.get(name, ("",))[0]} >= {
        one.name for one in BENCHMARK_METRICS[name]
    }
    for case in load_benchmark(files[name]):
        before = f"{case.fact.cloze} {case.fact.target}.\n" * (condition == "prompt-only")
        now, then = (Loops(model, text, n_tokens) for text in (before, ""))
        want = by_loops(case, name, now, then)
        for metric in defined:
            got, expected = scores.loc[case.id, metric], want.get(metric, float("nan"))
            assert got == pytest.approx(expected, abs=1e-4, nan_ok=True), (case.id, metric)


# --- whole comparisons -------------------------------------------------------------------------


def test_every_format_is_compared_and_has_a_page(compared: dict[str, Comparison], tmp_path: Path):
    for name, found in compared.items():
        table = found.table().set_index(["condition", "metric"])["value"]
        assert table["ft", "efficacy"] == 1 > table["none", "efficacy"] == 0
        said = found.summary()
        line = said["methods"]["ft"]
        assert line["efficacy"] == 1 and len(line["efficacy_ci"]) == 2
        assert set(said["metrics"]) == {one.name for one in BENCHMARK_METRICS[name]} & set(line)
        assert {one["protocol"].split(":")[0] for one in said["metrics"].values()} == {
            "ours",
            "published",
        }
        page = found.report().html()
        assert "What each metric is" in page and "published: " in page and "prompt-only" in page
        found.save(tmp_path / name)
        assert Comparison.load(tmp_path / name).summary() == said


def test_published_and_own_efficacy_differ_where_the_target_is_only_likelier(
    compared: dict[str, Comparison],
):
    table = compared["counterfact"].table().set_index(["condition", "metric"])["value"]
    parts = [table["ft", name] for name in SCORES["counterfact"][1]]
    assert table["ft", "counterfact_score"] == pytest.approx(stats.hmean(parts))
    assert table["none", "neighbourhood_score"] == 1 and table["none", "efficacy_magnitude"] < 0


def test_ripple_tests_count_only_where_their_conditions_held_and_the_edit_worked(
    compared: dict[str, Comparison],
):
    rows = compared["ripple_edits"].answers
    rows = rows[rows["kind"] != "efficacy"].assign(counts=rows["held"] & rows["edited"])
    by = rows.groupby(["condition", "kind"])["counts"].agg(["sum", "count"])
    assert by.loc[("ft", "relation_specificity"), "sum"] == 3  # what the model says by itself
    assert by.loc[("ft", "subject_aliasing"), "sum"] == 0  # what it does not
    assert by.loc["none", "sum"].eq(0).all() and by["count"].eq(3).all()


def test_edits_of_single_facts_pile_up_and_what_is_left_out_is_counted(
    model: Model, files: dict[str, Path], tmp_path: Path
):
    rows = json.loads(files["counterfact"].read_text())
    twin = rows[0] | {"case_id": 9}
    glued, empty = (json.loads(json.dumps(rows[0] | {"case_id": n})) for n in (10, 11))
    glued["requested_rewrite"]["prompt"] = "w6 {}9"  # ends inside a token
    empty["requested_rewrite"]["prompt"] = "w6"
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, twin, glued, empty]))
    found = compare_methods(model, load_benchmark(path), settings("none", sequential=True, limit=2))
    assert found.excluded == {
        UNUSABLE: 1,
        "subject or target has no tokens of its own": 1,
        "its edit touches an earlier one's": 1,
        "beyond the limit": 1,
    }
    said = found.summary()
    assert (said["n_cases"], said["n_asked"], said["n_filtered"]) == (6, 5, 2)
    (row,) = said["unusable"]
    assert row["id"] == "11" and row["where"] == "rows.json, row 6"
    assert "has 0 slots" in row["reason"]
    assert "Rows of the file that cannot be used" in found.report().html()


def test_tests_without_a_named_answer_are_counted(
    model: Model, files: dict[str, Path], tmp_path: Path
):
    rows = json.loads(files["ripple_edits"].read_text())
    rows[1]["Subject_Aliasing"][0]["test_queries"][0]["answers"] = [{"value": "", "aliases": []}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    found = compare_methods(model, load_benchmark(path), settings("none"))
    assert found.excluded == {UNANSWERED: 1}
    assert (found.answers["kind"] == "subject_aliasing").sum() == 2
