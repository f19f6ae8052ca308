"""Prompts of the emotion system in a model's tokens: plain texts, and chat turns by template."""

from circuits.emotion.frames import Prompt
from interp.data.prompts import TokenPrompt
from interp.errors import ModelError, shown
from interp.model.model import Model


def token_prompt(model: Model, prompt: Prompt, *, double_bos: bool = False) -> TokenPrompt:
    """A prompt in tokens.

    Args:
        model: whose tokens.
        prompt: a plain text, or a system and a user turn, which the model's template renders up
            to where its reply begins.
        double_bos: tokenise the rendered chat with special tokens once more, as the released code
            does (Llama then gets two BOS tokens).

    Raises:
        ModelError: the prompt has a system turn and the tokenizer no chat template.
    """
    if prompt.system is None:
        return TokenPrompt(tuple(model.encode(prompt.text)))
    if not getattr(model.tokenizer, "chat_template", None):
        raise ModelError(
            f"{model.name} has no chat template, so the system turn {shown(prompt.system)} cannot "
            "be put before it; use a frame without a system turn, such as 'felt'."
        )
    turns = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": prompt.text},
    ]
    text = model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, add_special_tokens=double_bos)["input_ids"]
    return TokenPrompt(tuple(ids))
