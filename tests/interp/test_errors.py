"""Texts of others inside messages of ours."""

import pytest

from interp.errors import first_line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\ntwo", "ValueError: one"),
        ("\n\n  late", "ValueError: late"),
        ("", "ValueError: no message"),
        ("\x1b[2Jgone\x07", r"ValueError: \x1b[2Jgone\x07"),
        ("a\tb\u202ec\u200b", r"ValueError: a\tb\u202ec\u200b"),
        ("café – 東京", "ValueError: café – 東京"),
    ],
)
def test_a_foreign_message_becomes_one_printable_line(text: str, said: str):
    assert first_line(ValueError(text)) == said
    assert said.isprintable()


def test_a_long_one_is_cut():
    assert first_line("x" * 200) == "x" * 149 + "…"
    assert len(first_line("\x1b" * 200)) == 150
