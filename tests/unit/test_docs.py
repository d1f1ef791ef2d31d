"""What the documents name exists, and what the server may say to an operator is explained to one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")])
SOURCES = [
    path
    for pattern in ("*.py", "*.pyx", "*.pxd")
    for path in sorted((ROOT / "fastzk").rglob(pattern))
    if path.name != "_constants.pxd"
]

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path of the repository, as opposed to one of an installation or of ZooKeeper.
FILE = re.compile(r"(?:fastzk|tests|bench|docs|\.ci)/[\w./-]*\w|(?:setup|\w+_\w+)\.py")
CALL = re.compile(r"(?:([A-Z]\w*)\.)?(\w+)\(\)")
CLASS = re.compile(r"(?:cdef )?class (\w+)")
DEFINITION = re.compile(r"( *)(?:async )?(?:cdef|cpdef|def)\b[^(=:]*?(\w+)\(")


def document_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def definitions() -> set[tuple[str | None, str]]:
    """(class or None, name) of every function and method in the package; methods also as (None, name)."""
    found: set[tuple[str | None, str]] = set()
    for source in SOURCES:
        inside: str | None = None
        for line in source.read_text().splitlines():
            if line and not line[0].isspace():
                begun = CLASS.match(line)
                inside = begun[1] if begun else None
            defined = DEFINITION.match(line)
            if defined:
                found.add((inside if defined[1] else None, defined[2]))
                found.add((None, defined[2]))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_files_named_exist(document: Path) -> None:
    named = {word for word in CODE.findall(document.read_text()) if FILE.fullmatch(word)}
    missing = {word for word in named if not any((base / word).exists() for base in (ROOT, document.parent))}
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (document.parent / name) if name else document
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_functions_named_exist(document: Path) -> None:
    known = definitions()
    named = {match.groups() for word in CODE.findall(document.read_text()) if (match := CALL.fullmatch(word))}
    assert not {each for each in named if each not in known}


def test_architecture_names_functions_and_nearly_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len({word for word in CODE.findall(text) if CALL.fullmatch(word)}) > 50
    modules = {str(path.relative_to(ROOT)) for path in SOURCES if path.suffix == ".pyx"}
    assert not {module for module in modules if module not in text}


def messages(of_client: bool) -> Iterator[tuple[str, str]]:
    """(file, format) of each log call at warning level and above, of the client or of everything else."""
    call = re.compile(
        r"""\b_?log(?:ger)?\.(?:warning|error|critical|exception)\(\s*((?:"(?:[^"\\\n]|\\.)*"\s*)+)"""
    )
    for source in SOURCES:
        if (ROOT / "fastzk" / "client" in source.parents) == of_client:
            for literals in call.findall(source.read_text()):
                yield source.name, ast.literal_eval(f"({literals})")


@pytest.mark.parametrize(("document", "of_client", "least"), [("operations.md", False, 15), ("client.md", True, 7)])
def test_every_warning_is_explained(document: str, of_client: bool, least: int) -> None:
    text = (ROOT / "docs" / document).read_text()
    found = list(messages(of_client))
    assert len(found) >= least
    for source, message in found:
        # The longest piece between two placeholders identifies a message; "%s" alone has none.
        piece = max(re.split(r"(?:0x)?%[#\d.]*[a-z]", message), key=len).strip(" :;")
        if len(piece) > 1:
            assert piece in text, f"{source}: {message!r} is not in docs/{document}"
