"""`Rendered`: a chat as a text in which the special tokens are already written."""


class Rendered(str):
    """A chat as its model's template writes it.

    It is an ordinary text but for two things: the tokenizer adds no special tokens to it, as the
    template wrote them (:meth:`Model.encode`), and an answer behind it begins without a space
    unless the assistant's text has begun.

    Attributes:
        continued: whether it ends within the assistant's text.
    """

    continued: bool

    def __new__(cls, text: str, continued: bool = False) -> "Rendered":
        """A rendered chat of this text."""
        made = super().__new__(cls, text)
        made.continued = continued
        return made

    def __add__(self, more: str) -> "Rendered":
        """The chat with more of the assistant's text."""
        return Rendered(super().__add__(more), continued=self.continued or bool(more))
