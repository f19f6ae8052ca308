"""Compiled programs as ground truth: their circuit is known, so methods can be marked."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.calls import record_layer_calls
from interp.model import Model
from interp.plain import Program


def program_contrast(model: Model, program: Program) -> Contrast:
    """All clean/corrupt examples of a compiled program as one contrast.

    The metric is linear in the outputs and read at every token after BOS. Of a categorical
    program it is output[clean answer] - output[corrupt answer], summed over the tokens where
    these differ; of a numeric one, sign(clean - corrupt) x output.
    """
    prompts = [ids for pair in program.pairs for ids in (pair["clean_ids"], pair["corrupt_ids"])]
    ids = torch.tensor(prompts, device=model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    calls = record_layer_calls(model, ids, mask)
    with torch.no_grad():
        out = model.hf(input_ids=ids).logits
    weights = _weights(out[0::2, 1:], out[1::2, 1:])

    def read(
        resid: Float[Tensor, "row pos d_model"], pair: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        logits = model.logits(resid[:, 1:])
        return (logits * weights[pair]).sum((1, 2))

    return Contrast(calls, mask[0::2], read)


def _weights(
    clean: Float[Tensor, "pair pos out"], corrupt: Float[Tensor, "pair pos out"]
) -> Float[Tensor, "pair pos out"]:
    if clean.shape[-1] == 1:
        return (clean - corrupt).sign()
    one_hot = torch.nn.functional.one_hot
    answer, wrong = (one_hot(x.argmax(-1), x.shape[-1]) for x in (clean, corrupt))
    return (answer - wrong).to(clean)
