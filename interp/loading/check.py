"""Does a model do what its map says? The full conformance report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.prompts import TokenPrompt
from interp.errors import InterpError, ModelError, first_line
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask, record_layer_calls
from interp.forward.packed import Pack, Rows, Write, final_resid_of_rows, shares_prefixes
from interp.forward.prefix_cache import keeps_keys
from interp.interventions.native import applied
from interp.interventions.plan import Add
from interp.loading.fitting import (
    every_site,
    probe,
    probe_ids,
    require_causal,
    require_head,
    require_stream,
    rounding,
)
from interp.model.architecture import USUAL
from interp.model.model import Model
from interp.model.sites import SITES


@dataclass(frozen=True)
class Check:
    """One line of the conformance report; what does not apply to a model holds, too."""

    name: str
    holds: bool
    detail: str
    applies: bool = True


class _NotApplicable(Exception):
    """Why a check does not apply to a model."""


def validate(model: Model, tolerance: float | None = None) -> list[Check]:
    """Run every conformance check on a model and say what holds.

    `tolerance` is the largest relative difference allowed; by default that of `rounding`.
    """
    allowed = rounding(model) if tolerance is None else tolerance
    checks: Sequence[tuple[str, Callable[[Model, float], str]]] = (
        ("every site fulfils its identities", _check_sites),
        ("the packed forward equals the model's own forward under plain hooks", _check_packed),
        ("padding on either side changes nothing", _check_padding),
        ("replacing an activation by itself changes nothing", _check_no_op),
        ("editing any site changes the prediction", _check_effective),
        ("resid_mid edits reach the residual stream", _check_resid_mid),
        ("generating under a plan equals running everything again per token", _check_generation),
        ("tokens survive a round trip", _check_tokens),
    )
    found: list[Check] = []
    for name, check in checks:
        try:
            with torch.no_grad():
                found.append(Check(name, True, check(model, allowed)))
        except _NotApplicable as reason:
            found.append(Check(name, True, f"not applicable: {reason}", applies=False))
        except InterpError as error:
            found.append(Check(name, False, str(error)))
        except Exception as error:  # a wrong map fails in any of torch's ways
            found.append(Check(name, False, first_line(error)))
    return found


def _last_logits(model: Model, ids: Tensor) -> Float[Tensor, "prompt vocab"]:
    return model.hf(input_ids=ids, use_cache=False).logits[:, -1].float()


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _require(difference: float, allowed: float, what: str) -> str:
    if not difference <= allowed:
        raise ModelError(f"{what}: relative difference {difference:.2g}, allowed {allowed:g}")
    return f"relative difference {difference:.1e}"


def _check_sites(model: Model, allowed: float) -> str:
    seen = probe(model)
    for (layer, site), why in seen.failed.items():
        raise ModelError(f"site {site!r} in layer {layer}: {why}")
    require_stream(model, seen)
    absent = {name: why for name, why in model.arch.missing.items() if why not in USUAL}
    notes = [f"no {name}: {why}" for name, why in absent.items()]
    if model.arch.causal:
        require_causal(model, seen)
    else:
        notes.append("tokens read in both directions, as the program was compiled to")
    require_head(model, seen)
    n_places = sum(len(block.points) for block in model.arch.layers)
    size = f"{len(model.arch.sites)} sites, {n_places} places in {model.arch.n_layers} layers."
    return f"{size} {'; '.join(notes)}".strip()


def _check_packed(model: Model, allowed: float) -> str:
    """Two prompts, and the second with an activation of the first: packed, and by plain hooks."""
    ids = torch.cat([probe_ids(model), probe_ids(model, first=2)])
    n, layer = ids.shape[1], model.arch.n_layers // 2
    pos = min(2, n - 1)
    start = torch.tensor([0, 0, pos if shares_prefixes(model) else 0])
    end = torch.full_like(start, n)
    entry = [2 + (i >= layer) for i in range(model.arch.n_layers + 1)]
    rows = Rows(torch.tensor([0, 1, 1]), start, end, end - 1, entry, 2)
    into, source = (Pack(rows, n).token(torch.tensor([row]), torch.tensor([pos])) for row in (2, 0))
    write = Write(SITES["resid_pre"], layer, into, source, None)
    calls = record_layer_calls(model, ids, torch.ones_like(ids, dtype=torch.bool))
    got = model.logits(final_resid_of_rows(model, calls, rows, [write]))
    first: list[Tensor] = []
    note = (SITES["resid_pre"], layer, lambda a: first.append(a[:1, pos].clone()))
    plain = _hooked_logits(model, ids, [note])
    put = (SITES["resid_pre"], layer, lambda a: a[:, pos].copy_(first[0]))
    want = torch.cat([plain, _hooked_logits(model, ids[1:], [put])])
    return _require(_difference(got, want), allowed, "packed forward")


def _check_padding(model: Model, allowed: float) -> str:
    if not model.arch.causal:
        raise _NotApplicable("a compiled program has no attention mask to leave padding out")
    ids = probe_ids(model)
    alone = _last_logits(model, ids)
    worst = 0.0
    for left, right in ((3, 0), (0, 3)) if model.arch.left_padding else ((0, 3),):
        padded = torch.nn.functional.pad(ids, (left, right))
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[:, left : left + ids.shape[1]] = True
        out = model.hf(input_ids=padded, use_cache=False, **positions_and_mask(model, mask))
        worst = max(worst, _difference(out.logits[:, left + ids.shape[1] - 1].float(), alone))
    return _require(worst, allowed, "padding")


def _check_no_op(model: Model, allowed: float) -> str:
    ids, places = probe_ids(model), list(every_site(model))
    # hooked both times: inside experts, a hook makes another kernel compute, which rounds otherwise
    edits, reads = (
        [(*place, act) for place in places]
        for act in (lambda act: act.copy_(act.clone()), lambda act: None)
    )
    edited, read = (_hooked_logits(model, ids, how) for how in (edits, reads))
    _require(_difference(read, _last_logits(model, ids)), allowed, "reading")
    return _require(_difference(edited, read), 0.0, "no-op edit")


def _check_effective(model: Model, allowed: float) -> str:
    """One batch per site, its row n disturbed in layer n."""
    rows = probe_ids(model).expand(model.arch.n_layers, -1)
    plain = _last_logits(model, rows)
    for site in map(SITES.__getitem__, model.arch.sites):
        if site.units != "d_model" and not model.arch.causal:
            continue
        layers = model.arch.layers_with(site.name)
        edits = [(site, n, lambda act, row=n: act[row].mul_(1.5).add_(0.1)) for n in layers]
        disturbed = _hooked_logits(model, rows, edits)
        for layer in layers:
            if torch.equal(disturbed[layer], plain[layer]):
                raise ModelError(f"editing {site.at(layer)} leaves the prediction unchanged")
    if model.arch.causal:
        return "every site in every layer"
    return (
        "every site of whole vectors in every layer; not applicable to heads and neurons, some of "
        "which a compiled program leaves unused"
    )


def _check_resid_mid(model: Model, allowed: float) -> str:
    ids, last = probe_ids(model), model.arch.n_layers - 1
    for site in ("resid_mid", "mlp_out"):
        if site not in model.arch.layers[last].points:
            raise _NotApplicable(f"no {site}: {model.arch.layers[last].missing[site]}")
    before, after = list[Tensor](), list[Tensor]()
    note = (SITES["resid_mid"], last, lambda a: before.append(a.clone()))
    keep = (SITES["resid_post"], last, lambda a: after.append(a.clone()))
    delta = torch.randn(model.arch.d_model, generator=torch.Generator().manual_seed(0))
    shift = (SITES["resid_mid"], last, lambda a: a.add_(delta.to(a)))
    drop = (SITES["mlp_out"], last, lambda a: a.zero_())
    with hooked(model, [note, drop, keep]):
        _last_logits(model, ids)
    # as long as the stream: 16 bits round what is much shorter away
    delta *= float(before[0].float().norm(dim=-1).max() / delta.norm())
    with hooked(model, [shift, drop, keep]):
        _last_logits(model, ids)
    moved = (after[1] - after[0]).float()
    return _require(_difference(moved, delta.to(moved).expand_as(moved)), max(allowed, 1e-3), "mid")


def _check_generation(model: Model, allowed: float, n_new: int = 4) -> str:
    """Steer every decoded token: with the KV cache, and in a loop with plain hooks and no cache."""
    if not hasattr(model.hf, "generate"):
        raise _NotApplicable("a compiled program answers at every token and does not generate")
    ids, seen = probe_ids(model), probe(model)
    n, layer = ids.shape[1], model.arch.n_layers // 2
    direction = torch.randn(model.arch.d_model, generator=torch.Generator().manual_seed(0))
    direction *= float(seen.final[0, -1].float().norm() / direction.norm())
    plan = Add("resid_post", direction, layers=layer, positions="decoded")
    with applied(model, plan, [TokenPrompt(tuple(ids[0].tolist()))]):
        out = model.hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            do_sample=False,
            use_cache=keeps_keys(model),
            pad_token_id=model.blank,
            output_logits=True,
            return_dict_in_generate=True,
        )
    edits = [(SITES["resid_post"], layer, lambda a: a[:, n:].add_(direction.to(a)))]
    cached = torch.stack(out.logits).float()
    again, plain = (
        torch.stack([_hooked_logits(model, out.sequences[:, : n + i], how) for i in range(n_new)])
        for how in (edits, [])
    )
    if torch.equal(again[-1], plain[-1]):
        raise ModelError("steering decoded tokens leaves the prediction unchanged")
    worst = max(_difference(one, two) for one, two in zip(cached, again, strict=True))
    return f"{n_new} tokens, {_require(worst, allowed, 'generation')}"


def _hooked_logits(model: Model, ids: Tensor, edits: Sequence[Any]) -> Tensor:
    with hooked(model, edits):
        return _last_logits(model, ids)


def _check_tokens(model: Model, allowed: float) -> str:
    text = model.tokenizer.decode(probe_ids(model)[0], skip_special_tokens=True)
    ids = model.encode(text)
    back = model.tokenizer.decode(ids, skip_special_tokens=True)
    if back != text:
        raise ModelError(f"{text!r} comes back as {back!r}")
    return f"{len(ids)} tokens"
