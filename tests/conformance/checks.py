"""What interp computes on a model beside plain hooks of torch: the checks of the conformance table.

    for outcome in conformance(interp.load_model(tiny_model("mixtral"), word_tokenizer())):
        print(outcome.check, outcome.state, outcome.detail)

Nothing here is compared with itself: the other side of each check is the model's own forward pass,
with hooks that put a value in place of a module's first input or output.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from conformance.plain_edges import edges_beside_plain_hooks
from conformance.plain_hooks import at_site, changed, plain_runs_of, put, word_pairs
from interp.attribution.attribute import attribute
from interp.errors import InterpError, InterpWarning, first_line
from interp.interventions.generate import generate
from interp.interventions.plan import Ablate, Add
from interp.interventions.recording import activations
from interp.interventions.run import forward
from interp.model.architecture import ExpertLayout
from interp.model.model import Model
from interp.model.sites import SITES
from interp.patching.patch import patch

ALLOWED = 1e-4
"""Largest absolute difference of a number, in logits."""

State = Literal["equal", "refused", "differs", "fails"]


@dataclass(frozen=True)
class Outcome:
    """One check: `equal`, `refused` by an error of interp's own, `differs`, or `fails` otherwise.

    `difference` is the largest absolute difference of a number from the other side's.
    """

    check: str
    state: State
    detail: str
    difference: float | None = None
    seconds: float = 0.0


Found = tuple[float, str]
"""Largest absolute difference, and what was compared."""


def conformance(model: Model) -> list[Outcome]:
    """Every check, on two pairs of words of unequal length."""
    return [outcome_of(name, lambda check=check: check(model)) for name, check in CHECKS.items()]


def outcome_of(name: str, check: Callable[[], Found]) -> Outcome:
    """What a check finds, with every error as an outcome."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)
            difference, detail = check()
    except InterpError as error:
        return Outcome(name, "refused", str(error))
    except Exception as error:  # what must not happen, and is what the table is for
        return Outcome(name, "fails", first_line(error))
    state = "equal" if difference <= ALLOWED else "differs"
    return Outcome(name, state, detail, difference, round(time.perf_counter() - started, 2))


# --- checks ------------------------------------------------------------------------------------


@torch.no_grad()
def _patched(model: Model, site: str, axis: str, some: Sequence[int] | None = None) -> Found:
    """A sweep over layers and an axis, beside one forward pass per cell (`some` units of each)."""
    result = patch(model, word_pairs(), site=site, over=("layer", axis), progress=False)
    worst, n = 0.0, 0
    for values, plain in zip(result.values, plain_runs_of(model), strict=True):
        for layer in map(int, values.coords["layer"].values):
            clean = plain.seen(plain.clean, site, layer)
            n_units = model.n_units(SITES[site], layer)
            width = clean.shape[-1] // n_units
            units = range(len(plain.pair.clean) if axis == "pos" else n_units)
            for unit in units if some is None else {units[i % len(units)] for i in some}:
                features = (..., slice(unit * width, (unit + 1) * width))
                where = (slice(None), unit) if axis == "pos" else features
                place = at_site(model, site, layer, put(clean, where))
                want = float(plain.metric(plain.corrupt, [place]))
                got = float(values.sel({"layer": layer, axis: unit}))
                off = abs(got - want)
                worst, n = max(worst, off if off == off else float("inf")), n + 1
    return worst, f"{n} cells"


def _check_patch(model: Model) -> Found:
    return _patched(model, "resid_pre", "pos")


def _check_heads(model: Model) -> Found:
    return _patched(model, "z", "head")


def _check_mlp(model: Model) -> Found:
    return _patched(model, "mlp_out", "pos")


def _check_neurons(model: Model) -> Found:
    return _patched(model, "mlp_post", "neuron", some=(0, 17, -1))


def _check_attribution(model: Model) -> Found:
    """Gradients at the residual stream times the change, beside autograd through the model."""
    pairs = word_pairs()
    got = attribute(model, pairs, "resid_pre", ("layer", "pos"), "eap", progress=False).values
    worst = 0.0
    for row, plain in zip(got, plain_runs_of(model), strict=True):
        for layer in range(model.arch.n_layers):
            change = plain.seen(plain.clean, "resid_pre", layer)
            change = change - plain.seen(plain.corrupt, "resid_pre", layer)
            start = torch.zeros_like(change).requires_grad_(True)
            place = at_site(model, "resid_pre", layer, lambda x, start=start: x + start)
            (slope,) = torch.autograd.grad(plain.metric(plain.clean, [place]), start)
            want = (slope * change).sum(-1)[0]
            own = torch.from_numpy(row.sel(layer=layer).values[: len(want)])
            worst = max(worst, float((own - want).abs().max()))
    return worst, f"{got[0].size} cells"


@torch.no_grad()
def _check_experts(model: Model) -> Found:
    """Contributions add up to what the mixture gives, and an expert removed is one of no output."""
    worst, n = 0.0, 0
    for layer in model.layers_with(SITES["expert_out"]):
        layout, block = model.arch.layers[layer].experts, model.blocks[layer]
        assert isinstance(layout, ExpertLayout)
        path = layout.experts.rpartition(".")[0]
        mixture = block.get_submodule(path or layout.experts)
        shared = (layout.shared or "").startswith(f"{path}.")
        for plain in plain_runs_of(model):
            prompt = [plain.pair.pair.clean]
            if not shared or "shared_out" in model.arch.layers[layer].points:
                whole = list[Tensor]()
                with changed([(mixture, "out", lambda x, to=whole: to.append(x) or x)]):
                    plain.metric(plain.clean)
                want = whole[0].view(-1, layout.d_out)
                out = activations(model, prompt, "expert_out", layer)[layer][0]
                total = layout.times * out.unflatten(-1, (layout.n_experts, -1)).sum(-2)
                total = total + getattr(mixture, "bias", 0)
                if shared:
                    total = total + activations(model, prompt, "shared_out", layer)[layer][0]
                worst, n = max(worst, float((total - want).abs().max())), n + 1
            for expert in range(layout.n_experts - layout.n_identity):
                plan = Ablate("expert_out", layers=layer, units=[expert])
                got = forward(model, prompt, plan).logits[0]
                with _without_output(block.get_submodule(layout.experts), layout, expert):
                    want = model.hf(input_ids=plain.clean, use_cache=False).logits[0, -1]
                worst, n = max(worst, float((got - want).abs().max())), n + 1
    return worst, f"{n} sums and experts removed"


@contextlib.contextmanager
def _without_output(experts: nn.Module, layout: ExpertLayout, expert: int) -> Generator[None]:
    """An expert whose last map is zero."""
    names = ("down_proj", "mlp.w2", "output_linear")
    last = [
        p.data.unflatten(0, (layout.n_experts, -1)) if name == "mlp.w2" else p
        for name, p in experts.named_parameters()
        if name.startswith(names)
    ]
    before = [p[expert].clone() for p in last]
    for parameter in last:
        parameter[expert] = 0
    try:
        yield
    finally:
        for parameter, value in zip(last, before, strict=True):
            parameter[expert] = value


def _check_generation(model: Model, n_new: int = 4) -> Found:
    """Greedy tokens under a plan, of two prompts in one batch, beside runs of all tokens again."""
    prompts = [pair.clean for pair in word_pairs()]
    layer = model.arch.n_layers // 2
    direction = torch.randn(model.arch.d_model, generator=torch.Generator().manual_seed(0))
    stream = plain_runs_of(model)[0]
    size = stream.seen(stream.clean, "resid_post", layer)[0, -1].norm()
    direction = direction * size / direction.norm()
    plan = Add("resid_post", direction, layers=layer, positions="generating")
    wrong = 0
    for steps in ((), plan):
        made = generate(model, prompts, steps, n_new, progress=False)
        for one in made:
            wrong += one.ids != _greedy(
                model, one.prompt, n_new, layer, direction if steps else None
            )
    return float(wrong), f"{2 * len(prompts)} continuations of {n_new} tokens"


@torch.no_grad()
def _greedy(
    model: Model, prompt: Sequence[int], n_new: int, layer: int, direction: Tensor | None
) -> tuple[int, ...]:
    ids = list(prompt)
    ends = model.hf.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]

    def steer(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, len(prompt) - 1 :] += 0 if direction is None else direction
        return new

    places = [] if direction is None else [at_site(model, "resid_post", layer, steer)]
    for _ in range(n_new):
        with changed(places):
            logits = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in ends:
            break
    return tuple(ids[len(prompt) :])


CHECKS: dict[str, Callable[[Model], Found]] = {
    "patch": _check_patch,
    "heads": _check_heads,
    "mlp": _check_mlp,
    "neurons": _check_neurons,
    "attribution": _check_attribution,
    "edges": edges_beside_plain_hooks,
    "generation": _check_generation,
    "experts": _check_experts,
}
