"""Emotions in the built-in models, on a few texts: transfer, the layer of onset, sparse neurons."""

import pytest

from circuits.emotion import Directions, load_frames, load_scenarios
from circuits.emotion.components import ComponentScores, component_scores
from circuits.emotion.states import States, groups_of, states
from circuits.emotion.texts import interleaved
from circuits.emotion.transfer import left_out, read_groups
from interp.model.model import Model

FRAMES = load_frames("datasets/emotion_frames.json")
pytestmark = pytest.mark.slow  # a study of two models, a minute

DISCOVERY = interleaved(load_scenarios("datasets/emotion_scenarios_discovery.jsonl"))[:8]
TEST = interleaved(load_scenarios("datasets/emotion_scenarios_test.jsonl"))[:8]


def seen(model: Model, scenarios: list, style: str, every: int = 1) -> States:
    return states(model, groups_of(model, scenarios, FRAMES, (style,))[::every])


@pytest.fixture(scope="module")
def gemma_found(gemma: Model) -> States:
    return seen(gemma, DISCOVERY, "felt:A", 2)


def test_gemma_reads_another_word_far_away_from_layer_10_on(gemma: Model, gemma_found: States):
    reading = read_groups(Directions.of(gemma_found), seen(gemma, TEST, "day:B", 3), "far")
    accuracy = reading.correct.mean(0)
    assert accuracy[9] < 0.5 < 0.8 < accuracy[10]
    assert accuracy[10:16].min() > 0.7


def test_within_a_style_every_layer_reads_and_shows_nothing(gemma_found: States):
    within = left_out(gemma_found, gemma_found, "within").correct.mean(0)
    assert within.min() > 0.95  # at the embedding already: the word is visible


def test_smollm_reads_synonyms_where_the_embedding_does_not(smollm: Model):
    directions = Directions.of(seen(smollm, DISCOVERY, "felt:A", 2))
    accuracy = read_groups(directions, seen(smollm, TEST, "felt:B", 3), "near").correct.mean(0)
    assert accuracy[0] < 0.3 and accuracy[21:29].min() > 0.85


def test_centred_and_signed_means_choose_different_neurons(gemma: Model, gemma_found: States):
    scored = component_scores(gemma, gemma_found, Directions.of(gemma_found))
    paper, centred = (top(scored[kind]) for kind in ("paper", "centred"))
    shared = len(paper & centred) / len(paper | centred)
    assert shared < 0.5


def top(table: ComponentScores, n: int = 200) -> set[int]:
    return set(table.neurons[0].flatten().argsort(descending=True)[:n].tolist())
