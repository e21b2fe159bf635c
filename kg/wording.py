"""Numbers with their nouns, for messages and reports."""

from __future__ import annotations


def counted(number: int, one: str) -> str:
    """``0 edges``, ``1 edge``, ``2 edges``: a noun that takes an s.

    Args:
        number: how many.
        one: the noun for one of them.
    """
    return f"{number} {one}{'' if number == 1 else 's'}"
