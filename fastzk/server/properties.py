"""The syntax of Java's properties, and places in files and on the command line for messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

JAVA_BLANKS = "".join(map(chr, range(33)))  # what Java's String.trim removes


@dataclass(frozen=True, slots=True)
class Where:
    """Where a setting comes from: a file's line, or a flag (``--client-port``, ``--set tickTime``)."""

    path: Path | None = None
    line: int | None = None
    flag: str | None = None

    def __str__(self) -> str:
        if self.flag or not self.path:
            return self.flag or "default"
        # A file's name may hold anything but NUL: escaped, the message stays one line.
        path = str(self.path).encode("unicode_escape").decode() if not str(self.path).isprintable() else self.path
        return f"{path}:{self.line}" if self.line else str(path)

    def __bool__(self) -> bool:
        return bool(self.path or self.flag)


DEFAULT = Where()


class ConfigError(Exception):
    """The configuration is wrong; ``str()`` is one line that says where, which key, and what to do.

    ``path`` and ``line`` are None if a flag is to blame, ``flag`` is None if a file is. ``key`` may be empty.
    """

    def __init__(self, message: str, where: Where = DEFAULT, key: str = "") -> None:
        self.message, self.path, self.line, self.flag, self.key = (
            message,
            where.path,
            where.line,
            where.flag,
            key,
        )
        # A flag names its key already.
        named = [str(where)] if where else []
        if key and not where.flag:
            named.append(key)
        super().__init__(": ".join([*named, message]))


class Property(NamedTuple):
    """One entry of a file; ``line`` counts from 1 and is that of its beginning."""

    line: int
    name: str
    value: str


def parse_properties(content: bytes, path: Path) -> Iterator[Property]:
    """The entries of a file in the syntax of ``java.util.Properties``, duplicates included, in their order.

    Values keep their trailing blanks, as in Java. The file is taken as UTF-8 if it is valid UTF-8, else as
    the Latin-1 that Java expects. Raises ConfigError for a bad unicode escape, naming ``path`` and the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return parse_properties_text(text, path)


def parse_properties_text(text: str, path: Path | None = None) -> Iterator[Property]:
    """As ``parse_properties``, of text that came by another way than a file."""
    lines = re.split("\r\n|\r|\n", text)
    index = 0
    while index < len(lines):
        number, logical = index + 1, lines[index].lstrip(" \t\f")
        index += 1
        if logical[:1] in ("#", "!"):
            continue
        # A backslash at the end that is not itself escaped joins the next line, even one like a comment.
        while (len(logical) - len(logical.rstrip("\\"))) % 2:
            logical = logical[:-1]
            # A backslash alone on its line joins nothing: what follows may be a comment again.
            if not logical or index == len(lines):
                break
            logical += lines[index].lstrip(" \t\f")
            index += 1
        if not logical:
            continue
        where = Where(path, number)
        name = re.match(r"(?:\\.|[^\\=: \t\f])*", logical, re.DOTALL)
        assert name is not None  # the pattern matches the empty text
        separator = re.compile(r"[ \t\f]*[=:]?[ \t\f]*").match(logical, name.end())
        assert separator is not None
        yield Property(number, _unescape(name[0], where), _unescape(logical[separator.end() :], where))


def _unescape(text: str, where: Where) -> str:
    if "\\" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped[0] != "u":
            return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escaped, escaped)
        if len(escaped) == 1:
            raise ConfigError("\\u must be followed by four hexadecimal digits; write \\\\ for a backslash", where)
        return chr(int(escaped[1:], 16))

    units = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text, flags=re.DOTALL)
    try:
        # Java writes a character beyond U+FFFF as two escapes.
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ConfigError("a \\u escape is half of a character: its other half is missing", where) from None


def escape_value(value: str) -> str:
    """``value`` as it stands in a properties file, in ASCII: Java and ``parse_properties`` read it back."""
    escapes = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
    escaped = []
    for index, character in enumerate(value):
        if character in escapes:
            escaped.append(escapes[character])
        elif character in " =:" and not index:
            escaped.append("\\" + character)
        elif " " <= character <= "~":
            escaped.append(character)
        else:
            units = character.encode("utf-16-be", "surrogatepass")
            escaped += [f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)]
    return "".join(escaped)
