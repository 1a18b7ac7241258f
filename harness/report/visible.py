"""Text of others (a callable's output, an exception) made fit to be shown: nothing invisible, nothing endless."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
# what reorders or hides text (Unicode's bidirectional controls, zero width), lone surrogates, non-characters
_UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """The text without ANSI sequences, and with a sign for each character that a page must not hold or would hide.

    Line ends and tabs stay; other control characters become Unicode's pictures of them.
    """
    if text.isprintable():  # nearly all texts are, and a page has tens of thousands
        return text
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", _CONTROL.sub(_picture, text))


def _picture(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number == 0x7F:
        return "\u2421"
    return chr(0x2400 + number) if number < 0x20 else f"\\x{number:02x}"


def clip(text: str, limit: int) -> str:
    """The text, or its first ``limit`` characters and how many more there are."""
    text = visible(text)
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def one_line(text: str, limit: int) -> str:
    """The text on one line, clipped to ``limit`` characters."""
    # splitting a very long text would cost more than all that is shown of it
    return clip(" ".join(text[: limit * 20].split()), limit)


def brief(text: str, limit: int) -> str:
    """The beginning of the text on one line, at most ``limit`` characters and an ellipsis."""
    text = visible(" ".join(text[: limit * 20].split()))
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"
