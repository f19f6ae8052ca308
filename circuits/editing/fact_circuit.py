"""The circuit of an edit's own prompts, and the projections that lie inside it.

Source: in the spirit of MCircKE (arXiv 2604.05876): EAP-IG finds the circuit of the question, and
low-rank updates are made inside it alone. Of the paper only the abstract and summaries were at
hand, so ours are: the contrast (the subject, or the phrase that means it, against another name from
the shipped ``country_facts`` of as many tokens as possible; the metric is the log-probability of
the model's own next token), the size and the greedy choice of the circuit, and that of a head or an
MLP only the output projection is changed. The circuit is that of the model as loaded: edits that an
evaluation piles up without loading them are not seen.
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.discovery.ranking import greedy_edges
from circuits.editing.change import Place
from circuits.editing.fact import Fact
from circuits.editing.fact_prompts import bare_text
from circuits.editing.methods import FineTune, Form
from interp.attribution.attribute import attribute_edges
from interp.data.pairs import load_pairs
from interp.errors import DataError, DegenerateGap, InterpWarning
from interp.model.graph import Graph
from interp.model.model import Model
from interp.statistics.ties import first_largest

N_LIKELIEST = 20
"""Next tokens among which two that are not blank are taken as the answer and the wrong one."""


def inside_circuit(
    model: Model, facts: Sequence[Fact], stage: FineTune
) -> dict[Place, Float[Tensor, " d_in"]]:
    """Output projections of the heads and MLPs in the circuit of the facts' prompts.

    1 at the inputs that come from the circuit: of attention's output map those of its heads, of a
    down-projection all.

    Raises:
        DataError: no prompt can be attributed, or the circuit has neither heads nor MLPs.
        PlanError: the model cannot be taken apart into edges.
    """
    graph = Graph.of(model.arch)
    rows = [row for fact in facts for form in stage.forms if (row := _row(model, fact, form))]
    if not rows:
        raise DataError(f"no fact has {' or '.join(stage.forms)} prompts to find a circuit of.")
    with warnings.catch_warnings():  # names of unequal lengths: what has no partner stays clean
        warnings.simplefilter("ignore", InterpWarning)
        try:
            scores = attribute_edges(
                model, rows, "eap-ig", "logprob", progress=False, answers="first"
            )
        except DegenerateGap as error:
            raise DataError(f"no circuit: {error}") from error
    nodes = greedy_edges(scores, max(1, round(stage.edges * graph.n_edges))).nodes
    inside = _inputs(model, nodes)
    if not inside:
        raise DataError(
            f"the circuit of {round(stage.edges * graph.n_edges)} edges has neither heads nor "
            "MLPs; allow more edges."
        )
    return inside


def _inputs(model: Model, nodes: Sequence[str]) -> dict[Place, Float[Tensor, " d_in"]]:
    inside: dict[Place, Tensor] = {}
    for name in nodes:
        if name.startswith("m"):
            layer = int(name[1:])
            inside["mlp_post", layer] = torch.ones(model.arch.layers[layer].d_mlp)
        elif name.startswith("a"):
            layer, head = (int(part) for part in name[1:].split(".h"))
            block = model.arch.layers[layer]
            mask = inside.setdefault(("z", layer), torch.zeros(block.n_heads * block.d_head))
            mask[head * block.d_head : (head + 1) * block.d_head] = 1
    return inside


def _row(model: Model, fact: Fact, form: Form) -> dict[str, str] | None:
    """A prompt of the fact beside the same about another name; `None` where it has none."""
    names = {"two_hop": fact.implicit[:1]}.get(form, (fact.subject,))
    if not names or (form != "cloze" and not fact.question):
        return None
    clean = bare_text(model, fact, form, names[0])
    corrupt = bare_text(model, fact, form, _foil(model, fact, names[0]))
    with torch.no_grad():
        ids = torch.tensor([model.encode(clean)], device=model.device)
        state = model.body(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        logits = model.arch.logits_transform(model.unembed(state).float())[0]
    likeliest = (model.token(int(i)).strip() for i in first_largest(logits, N_LIKELIEST)[1])
    said, second = list(dict.fromkeys(text for text in likeliest if text))[:2]
    return {
        "id": f"{form}: {clean}",
        "clean": clean,
        "corrupt": corrupt,
        "answer": said,
        "wrong_answer": second,
    }


def _foil(model: Model, fact: Fact, name: str) -> str:
    """The first shipped name, other than the fact's, whose length in tokens is nearest."""
    n = len(model.encode(f" {name}"))
    pairs = load_pairs("country_facts")
    names = dict.fromkeys(p.clean[slice(*p.spans["subject"][0])] for p in pairs)
    others = [one for one in names if one not in (fact.subject, name, fact.target)]
    return min(others, key=lambda one: abs(len(model.encode(f" {one}")) - n))
