"""One closed-form step along normalised gradients (UltraEdit): nothing is searched or trained.

At every token i of an edit's prompts, targets included, h_i is what a projection reads and g_i the
gradient of the targets' negative log-likelihood in what it writes. With z = [h | g] normalised
coordinate by coordinate, by mean and deviation over the tokens of this edit and of all edits before
it, to [h^ | g^], the projection is to write v_i = -eta ||h^_i||^2 g^_i more, and

    Delta = V^T (H H^T + 1)^-1 H,     rows of H and V being h_i and v_i,

which is the paper's (H^T H + 1)^-1 H^T V, transposed: least squares with a ridge of 1, the solver's
metric being the identity.

Source: arXiv 2505.14679, and its code for what the paper leaves open: all tokens count, not only
the answer's. Ours: eta is `GradientStep.lr` in units of the root mean square r of what the
projection writes, eta = lr r / width of h; gradients are of the sum over an edit's target tokens,
so that edits of different sizes have one unit; only down-projections are written (GPT-J's setting
in the paper, whose gated models write gate and up).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.editing.change import Change, Changes, under
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.methods import GradientStep
from circuits.editing.solver import KeyMetric, solve
from interp.brief import brief
from interp.data.token_batch import padded
from interp.forward.blocks import Rewrite, rewriting
from interp.forward.budget import default_budget
from interp.model.model import Model

EPS = torch.finfo(torch.float32).eps


@brief
@dataclass(frozen=True)
class FeatureStatistics:
    """Running mean and squared deviations of [input | gradient] of one down-projection."""

    layer: int
    n: int
    mean: Float[Tensor, " width"]
    squares: Float[Tensor, " width"]

    @classmethod
    def of(cls, layer: int, z: Float[Tensor, "token width"]) -> "FeatureStatistics":
        """Of one edit's tokens."""
        mean = z.mean(0)
        return cls(layer, len(z), mean, (z - mean).square().sum(0))

    def joined(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Of both samples together. Source: Chan, Golub and LeVeque 1983."""
        n, apart = self.n + other.n, other.mean - self.mean
        mean = self.mean + apart * other.n / n
        squares = self.squares + other.squares + apart.square() * self.n * other.n / n
        return FeatureStatistics(self.layer, n, mean, squares)

    def normalised(self, z: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Each coordinate with mean 0 and deviation 1 over the sample."""
        return (z - self.mean) / ((self.squares / max(1, self.n - 1)).sqrt() + EPS)


@brief
@dataclass(frozen=True)
class TokenGradients:
    """What one down-projection reads and writes at some tokens, and the gradient there."""

    inputs: Float[Tensor, "token d_in"]
    outputs: Float[Tensor, "token d_out"]
    gradients: Float[Tensor, "token d_out"]

    @classmethod
    def joined(cls, parts: Sequence["TokenGradients"]) -> "TokenGradients":
        """The tokens of several batches."""
        return cls(*(torch.cat([getattr(one, f.name) for one in parts]) for f in fields(cls)))

    def only(self, chosen: Bool[Tensor, " token"]) -> "TokenGradients":
        """Some of the tokens."""
        return TokenGradients(self.inputs[chosen], self.outputs[chosen], self.gradients[chosen])


def step(
    tokens: TokenGradients,
    stage: GradientStep,
    layer: int,
    seen: Iterable[FeatureStatistics] = (),
    preserved: Float[Tensor, "token d_in"] | None = None,
) -> tuple[Change, FeatureStatistics]:
    """The change of one layer's down-projection, and the statistics of this edit's own tokens.

    `seen` are the statistics of the edits before it. Of `preserved` inputs nothing is to be
    written, with the stage's weight.
    """
    h, g = tokens.inputs.double(), tokens.gradients.double()
    z = torch.cat([h, g], 1)
    own = FeatureStatistics.of(layer, z)
    running = own
    for other in seen:
        if other.layer == layer:
            running = other.joined(running)
    h_hat, g_hat = running.normalised(z).split([h.shape[1], g.shape[1]], 1)
    eta = stage.lr * tokens.outputs.double().square().mean().sqrt() / h.shape[1]
    values = -eta * h_hat.square().sum(1, keepdim=True) * g_hat
    one = torch.eye(h.shape[1], dtype=torch.float64) / h.shape[1]  # whose typical k^T k is 1
    others = None if preserved is None else preserved.double().T
    factors = solve(KeyMetric("identity", one), h.T, values.T, 1.0, others, stage.preserved_weight)
    return Change("mlp_post", layer, *factors), own


def gradient_tokens(
    model: Model,
    prompts: Sequence[EditPrompt],
    layers: Sequence[int],
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
) -> tuple[dict[int, TokenGradients], Int[Tensor, " token"]]:
    """Every token of the prompts at each layer's down-projection, and the prompt it is of.

    Each prompt is read under the changes of the edit that `owner` numbers.
    """
    parts: dict[int, list[TokenGradients]] = {layer: [] for layer in layers}
    of_prompt: list[Tensor] = []
    most = max(1, default_budget(model) // max(len(prompt.ids) for prompt in prompts))
    for rows in torch.arange(len(prompts)).split(most):
        some = [prompts[i] for i in rows.tolist()]
        found, row = _read(model, some, layers, edits, owner[rows])
        for layer, tokens in found.items():
            parts[layer].append(tokens)
        of_prompt.append(rows[row])
    joined = {layer: TokenGradients.joined(own) for layer, own in parts.items()}
    return joined, torch.cat(of_prompt)


def _read(
    model: Model,
    prompts: Sequence[EditPrompt],
    layers: Sequence[int],
    edits: Sequence[Changes],
    owner: Int[Tensor, " row"],
) -> tuple[dict[int, TokenGradients], Int[Tensor, " token"]]:
    """One batch, differentiated in a leaf that is added to what each down-projection writes.

    What is differentiated is the sum of all targets' negative log-likelihoods.
    """
    # padded on the right, where nothing before it can see it
    ids, real = padded(model, [prompt.read_tokens.ids for prompt in prompts], on_left=False)
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    leaves: dict[int, Tensor] = {}

    def probe(layer: int) -> Rewrite:
        def look(x: Tensor, out: Tensor) -> Tensor:
            seen[layer], leaves[layer] = (x, out), torch.zeros_like(out, requires_grad=True)
            return out + leaves[layer]

        return look

    reads = [
        (row, len(prompt.ids) - k - 1, prompt.ids[-k])
        for row, prompt in enumerate(prompts)
        for k in range(prompt.n_target, 0, -1)
    ]
    shape = len(reads), 3  # none where all prompts of a batch are preserved
    row, column, token = torch.tensor(reads, dtype=torch.long).reshape(shape).to(model.device).T
    with torch.enable_grad():
        places = [("mlp_post", layer, probe(layer)) for layer in layers]
        with under(model, edits, owner), rewriting(model, places):
            normed = model.body(input_ids=ids, use_cache=False).last_hidden_state
        states = model.unembed(normed[row, column]).float()
        log_p = model.arch.logits_transform(states).log_softmax(-1)
        loss = -log_p.gather(1, token[:, None]).sum()
        found = torch.autograd.grad(loss, [leaves[layer] for layer in layers])
    out: dict[int, TokenGradients] = {}
    for layer, gradient in zip(layers, found, strict=True):
        three = (*seen[layer], gradient)
        out[layer] = TokenGradients(*(x[real.to(x.device)].detach().cpu() for x in three))
    return out, real.cpu().nonzero()[:, 0]
