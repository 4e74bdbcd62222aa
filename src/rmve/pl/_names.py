"""Names from the data as text of a figure, whatever they hold."""

from __future__ import annotations

#: Longest text, in characters, that is drawn of a name.
MAX_LENGTH = 40


def plain(name: object, max_length: int = MAX_LENGTH) -> str:
    """A name as one short line that matplotlib draws as it stands, and takes for no formula.

    Parameters
    ----------
    name
        What to draw.
    max_length
        Characters to keep; a longer name ends in an ellipsis.
    """
    text = str(name)[: 10 * max_length].encode("utf-8", "replace").decode("utf-8")
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if len(text) > max_length:
        text = f"{text[: max_length - 1]}…"
    return text.replace("$", r"\$")
