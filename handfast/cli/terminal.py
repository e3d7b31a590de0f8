"""What reaches a terminal: text that is shown and never obeyed."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Control and direction characters as escapes: names come from files and servers that anybody may write (threat G1).

    >>> print(printable("web\\x1b[2J\\u202egpj.exe"))
    web\\x1b[2J\\u202egpj.exe
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
