"""Words and tables as GitHub-flavoured Markdown; what users named stays text."""

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")

_BAR = re.compile(r"(?<!\\)\|")  # in a table one ends a cell, in a code span too


def escape(text: str) -> str:
    """Prose that Markdown shows as it is: no markup, no HTML, no mention of an account."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
    return escaped.replace("@", "@\u200b")


def code(text: str) -> str:
    """A name as a code span, in which nothing has a meaning."""
    flat = " ".join(str(text).split())
    longest = max(map(len, re.findall(r"`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") or not flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def block(lines: str) -> str:
    """Lines of a shell as a code block."""
    longest = max(map(len, re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{lines}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    marks = [":--", *("--:" for _ in heads[1:])]
    cells = ([_BAR.sub(r"\\|", cell) for cell in row] for row in (heads, marks, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def listed(sentences: Iterable[str]) -> str:
    """One sentence a line."""
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences)


def document(parts: Iterable[str]) -> str:
    """Parts that are not empty, with a line between them."""
    return "\n\n".join(part for part in parts if part) + "\n"
