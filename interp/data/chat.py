"""Chats: messages, the options of a chat template, and what the template makes of them.

A model's tokenizer carries the template, a small program that writes messages as the text that the
model was trained on, up to where the assistant's turn begins. Spans are texts of the messages;
where they are in the rendered text is found by rendering once more with marks around them.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from interp.brief import brief
from interp.errors import DataError, did_you_mean, first_line, shown
from interp.model.rendered import Rendered

if TYPE_CHECKING:  # not at run time: help texts are shown without PyTorch
    from interp.model.model import Model

Messages = Sequence[Mapping[str, Any]]
"""A chat: mappings with ``role`` and ``content``: ``[{"role": "user", "content": "Hi"}]``."""
Range = tuple[int, int]

BETWEEN = "\n\n"
"""What stands between the messages in the text of a chat."""
SWITCHES = ("enable_thinking", "thinking")
"""Names by which templates know the switch of thinking."""
_MARKS = "\ue000", "\ue001"  # of Unicode's private use, which no text has


@brief
@dataclass(frozen=True)
class Chat:
    """How chats are rendered.

    Attributes:
        system: content of a system turn that is put first.
        thinking: switch the model's thinking on or off, by the template's own argument; by default
            as the template has it.
        prefill: how the assistant's reply begins, such as ``"The capital is"``; the model
            continues it.
        tools: JSON schemas of the functions that the model may call
            (``transformers.utils.get_json_schema`` makes one of a Python function).
        arguments: further arguments of the template, such as ``{"reasoning_effort": "low"}``.
    """

    system: str | None = None
    thinking: bool | None = None
    prefill: str | None = None
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("system", "prefill"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, str) and given.strip()):
                raise DataError(f"the {name} text of a chat is {shown(given)}; give some text.")
        tools: Any = self.tools
        if tools and not is_messages(tools):
            raise DataError(f"the tools of a chat are {shown(tools)}; give JSON schemas.")
        try:
            json.dumps([list(tools), dict(self.arguments)])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"tools or arguments of a chat cannot be written as JSON ({first_line(error)})."
            ) from error
        object.__setattr__(self, "tools", tuple(tools))

    def wrap(self, prompt: "str | Messages | Conversation") -> "Conversation":
        """A prompt as a user's turn, or messages as they are, with these options.

        `DataError` where the messages are none; or they have a system turn, or begin the reply,
        and these options do, too.
        """
        if isinstance(prompt, Conversation):
            prompt = prompt.messages
        user = {"role": "user", "content": prompt}
        messages = list(Conversation((user,) if isinstance(prompt, str) else prompt).messages)
        if self.system is not None:
            if any(message["role"] == "system" for message in messages):
                raise DataError("these messages have a system turn; leave the option 'system' out.")
            messages = [{"role": "system", "content": self.system}, *messages]
        if self.prefill is not None:
            if messages[-1]["role"] == "assistant":
                raise DataError(
                    "these messages end within the assistant's turn; leave the option 'prefill' "
                    "out."
                )
            messages.append({"role": "assistant", "content": self.prefill})
        return Conversation(tuple(messages), self)


@brief
@dataclass(frozen=True)
class Conversation:
    """Messages and how they are rendered; made by :meth:`Chat.wrap`.

    Attributes:
        messages: with ``role`` and ``content``, both text, and whatever else the template reads;
            where the last is the assistant's, the model continues it.
    """

    messages: Messages
    chat: Chat = field(default_factory=Chat)

    def __post_init__(self) -> None:
        if not is_messages(self.messages):
            raise DataError(
                f"the prompt is {shown(self.messages)}; give one text, or chat messages: mappings "
                "with 'role' and 'content'."
            )
        for number, message in enumerate(self.messages, 1):
            text = isinstance(message.get("content"), str)
            called = message.get("content") is None and message.get("tool_calls")
            if not isinstance(message.get("role"), str) or not (text or called):
                raise DataError(
                    f"message {number} is {shown(message, 80)}; every message needs 'role' and "
                    "'content', both text."
                )
        object.__setattr__(self, "messages", tuple(self.messages))

    @property
    def text(self) -> str:
        """The contents of the messages, one below the other: what spans are counted in."""
        return BETWEEN.join(self._contents)

    @property
    def continued(self) -> bool:
        """Whether the assistant's reply has begun."""
        last = self.messages[-1]
        return last["role"] == "assistant" and bool(last.get("content"))

    def start(self, number: int) -> int:
        """Where in `text` the content of a message begins."""
        return sum(len(content) + len(BETWEEN) for content in self._contents[:number])

    def marked(self, span: Range) -> "Conversation":
        """The same with marks around a span; `DataError` where it is not within one message."""
        for number, content in enumerate(self._contents):
            begin = self.start(number)
            low, high = span[0] - begin, span[1] - begin
            if 0 <= low < high <= len(content):
                inside = content[low:high]
                low += len(inside) - len(inside.lstrip())  # templates trim what a message ends in
                high = low + len(inside.strip())
                left, right = _MARKS
                text = f"{content[:low]}{left}{content[low:high]}{right}{content[high:]}"
                messages = list(self.messages)
                messages[number] = {**messages[number], "content": text}
                return replace(self, messages=tuple(messages))
        raise DataError(
            f"the span of characters {span[0]} to {span[1]} is not within one message of the chat."
        )

    @property
    def _contents(self) -> list[str]:
        return [message.get("content") or "" for message in self.messages]


def in_chat(text: str, chat: Chat | None) -> "str | Conversation":
    """A text as a user's turn, or as it is where there are no options of a chat."""
    return text if chat is None else chat.wrap(text)


def is_messages(given: Any) -> bool:
    """Whether a value is a list of messages, sound or not."""
    several = isinstance(given, list | tuple) and bool(given)
    return several and all(isinstance(one, Mapping) for one in given)


def has_template(model: "Model") -> bool:
    """Whether a model's tokenizer has a chat template."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def switches(model: "Model") -> list[str]:
    """The switches of thinking that a model's chat template reads."""
    template = model.tokenizer.get_chat_template() if has_template(model) else ""
    return [one for one in SWITCHES if one in _arguments_of(template)]


def render(
    model: "Model", conversation: Conversation, spans: Mapping[str, Range] | None = None
) -> tuple[Rendered, dict[str, Range]]:
    """A chat as the model's template writes it, and where spans are in that text.

    Args:
        model: its tokenizer has the template.
        conversation: the messages and options.
        spans: name -> (start, end) in `conversation.text`.

    Returns:
        The text up to where the reply begins, or, where the last message is the assistant's, up to
        that message's end; and name -> (start, end) in it.

    Raises:
        DataError: the tokenizer has no template; the template refuses the messages, leaves the
            content of a system or user turn out, rewrites the text of a span, or reads no such
            option (a switch of thinking, tools, arguments).
    """
    text = _rendered(model, conversation)
    for number, message in enumerate(conversation.messages, 1):
        content = (message.get("content") or "").strip()
        if message["role"] in ("system", "user") and content not in text:
            raise DataError(
                f"the chat template of {model.name} leaves out or rewrites the content of message "
                f"{number}, {shown(message, 80)}."
            )
    found: dict[str, Range] = {}
    for name, span in (spans or {}).items():
        marked = _rendered(model, conversation.marked(span))
        start, end = (marked.find(mark) for mark in _MARKS)
        found[name] = start, end - 1
        if start < 0 or text != marked[:start] + marked[start + 1 : end] + marked[end + 1 :]:
            raise DataError(
                f"span {shown(name)} ({shown(conversation.text[slice(*span)])}) cannot be found "
                f"in the rendered chat: the template of {model.name} rewrites the text around it."
            )
    return Rendered(text, conversation.continued), found


def _rendered(model: "Model", conversation: Conversation) -> str:
    if not has_template(model):
        raise DataError(
            f"the tokenizer of {model.name} has no chat template, so messages cannot be rendered; "
            "give the prompt as text."
        )
    chat, begun = conversation.chat, conversation.continued
    tools = [dict(tool) for tool in chat.tools] or None
    try:
        reads = _arguments_of(model.tokenizer.get_chat_template(None, tools))
        return model.tokenizer.apply_chat_template(
            [dict(message) for message in conversation.messages],
            tools=tools,
            tokenize=False,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            **_given(chat, reads, model.name),
        )
    except DataError:
        raise
    except Exception as error:  # the template is the model author's program
        raise DataError(
            f"the chat template of {model.name} refuses these messages: {first_line(str(error))}."
        ) from error


def _given(chat: Chat, reads: frozenset[str], name: str) -> dict[str, Any]:
    """The template's arguments; `DataError` for one that it does not read."""
    given = dict(chat.arguments)
    if chat.thinking is not None:
        found = [switch for switch in SWITCHES if switch in reads]
        if not found:
            raise DataError(
                f"the chat template of {name} has no switch of thinking (it reads none of "
                f"{', '.join(SWITCHES)}); leave 'thinking' out."
            )
        given |= dict.fromkeys(found, chat.thinking)
    if chat.tools and "tools" not in reads:
        raise DataError(f"the chat template of {name} does not read tools; leave them out.")
    for argument in given:
        if argument not in reads:
            raise DataError(
                f"the chat template of {name} reads no argument {argument!r}. "
                f"{did_you_mean(argument, reads - {'messages', 'raise_exception'})}"
            )
    return given


@functools.cache
def _arguments_of(template: str) -> frozenset[str]:
    """The variables that a template reads and does not set itself."""
    from jinja2 import Environment, meta

    # transformers' own tag marks what the assistant wrote, and is unknown to Jinja
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 - parsed only
    return frozenset(meta.find_undeclared_variables(environment.parse(plain)))
