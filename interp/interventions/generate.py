"""Generation under a plan: Hugging Face's own loop, with the KV cache, hooked as one run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import Prompts, as_prompts, batches, pad
from interp.errors import PlanError, shown
from interp.forward.prefix_cache import keeps_keys
from interp.interventions.binding import bind, check_values
from interp.interventions.native import hooked_run
from interp.interventions.plan import AnyPlan, as_plan
from interp.model.model import Model
from interp.patching.cells import default_budget
from interp.progress import Progress, reported


@brief
@dataclass(frozen=True)
class Generation:
    """What one prompt was continued by.

    Attributes:
        prompt: the prompt's tokens.
        ids: the new tokens, up to and with the end-of-sequence token.
        text: the new tokens as text, special ones left out.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str


def generate(
    model: Model,
    prompts: Prompts,
    plan: AnyPlan = (),
    max_new_tokens: int = 20,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Progress | bool = True,
) -> list[Generation]:
    """Continue prompts under a plan; with an empty one this is ``model.hf.generate``.

    Scopes say when an intervention acts: ``"prompt"``, ``"last"`` and spans at prefill,
    ``"decoded"`` on each new token as it is read back, ``"all"`` on both.

    Args:
        model: the model; its own generation config applies (repetition penalty, top-k, …).
        prompts: texts, chat messages, token prompts, or pairs (of which the clean prompts run).
        plan: what to do; nothing by default.
        max_new_tokens: at most so many tokens per prompt; 1 or more.
        temperature: 0 takes the likeliest token each time; otherwise tokens are sampled.
        seed: of the sampling; a batch of other prompts draws other numbers.
        use_cache: keep keys and values; without, and for recurrent models (Mamba), every step
            recomputes all tokens.
        progress: called with (prompts done, prompts in all); True draws a bar where one is watched.

    Raises:
        PlanError: a site, layer or unit that the model does not have.
        PlanError: the plan cannot be carried out on these prompts, or `max_new_tokens` is not a
            positive whole number.
    """
    rows, steps = as_prompts(model, prompts), as_plan(plan)
    check_values(steps, rows)
    _check_length(max_new_tokens)
    sampling = {"temperature": temperature} if temperature else {}
    out: dict[int, Generation] = {}
    with reported(progress, "generating", len(rows), "prompts") as report:
        for group in batches(rows, default_budget(model)):
            part = [rows[i] for i in group]
            ids, mask = pad(model, part)
            with torch.random.fork_rng(), hooked_run(model, bind(model, steps, part, group)):
                torch.manual_seed(seed)
                both = model.hf.generate(
                    input_ids=ids,
                    attention_mask=mask.long(),
                    max_new_tokens=max_new_tokens,
                    do_sample=bool(temperature),
                    use_cache=use_cache and keeps_keys(model.hf),
                    pad_token_id=model.tokenizer.pad_token_id or 0,
                    **sampling,
                )
            for i, new in zip(group, both[:, ids.shape[1] :], strict=True):
                out[i] = _generation(model, rows[i].ids, new)
            report(len(out), len(rows))
    return [out[i] for i in range(len(rows))]


def _check_length(max_new_tokens: object) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise PlanError(f"max_new_tokens={shown(max_new_tokens)}: ask for 1 token or more.")


def _generation(model: Model, prompt: tuple[int, ...], new: Tensor) -> Generation:
    stop = model.hf.generation_config.eos_token_id
    ends = stop if isinstance(stop, list) else [stop]
    ids = [int(t) for t in new]
    length = next((i + 1 for i, t in enumerate(ids) if t in ends), len(ids))
    text = model.tokenizer.decode(ids[:length], skip_special_tokens=True)
    return Generation(prompt, tuple(ids[:length]), text)
