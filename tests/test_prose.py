"""The documents are written as an engineer speaks: short sentences, and no word that only insiders know."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Final

import pytest

from tests import documents

WORDS_MEDIAN_MAX: Final = 17
WORDS_MAX: Final = 40
"""Of one sentence; beyond it a list says the same in less time."""

PHRASES: Final = (
    "would else",
    r"\blies? in\b",
    r"(?:beg[iau]n|begins) anew",
    r"stops? nobody",
    r"\blies of\b",
    r"keeps? (?:everybody|everyone) waiting",
    r"\berrands?\b",
    r"\bacquaintances?\b",
    r"\b(?:giver|taker)s?\b",
)
"""What nobody says aloud, as patterns."""

HOUSE_WORDS: Final = ("standing", "life", "lives")
"""Names of the code that a reader of the documents does not know. CONTRIBUTING.md "Glossary" defines them."""

DOCUMENTS: Final = [path for path in documents.documents() if path.name != "CHANGELOG.md"]


CODE: Final = ("durable_raft", "tools", "tests", "benchmarks", "docs")


def too_long(markdown: str) -> list[str]:
    """Return the sentences with more than ``WORDS_MAX`` words."""
    return [each for each in documents.sentences(markdown) if len(each.split()) > WORDS_MAX]


def median(markdown: str) -> float:
    """Return the median number of words in a sentence."""
    return statistics.median(len(each.split()) for each in documents.sentences(markdown))


def refused_phrases(text: str) -> list[str]:
    """Return the phrases in a text that nobody says."""
    return re.findall("|".join(PHRASES), text, re.IGNORECASE)


def refused_words(markdown: str) -> list[str]:
    """Return the phrases and house words that the text uses, but for names in code and in tables of names."""
    plain = re.sub(r"`[^`\n]*`|^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    words = "|".join([*PHRASES, *(rf"\b{word}s?\b" for word in HOUSE_WORDS)])
    return re.findall(words, plain, re.IGNORECASE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=documents.name_of)
def test_sentences_are_short(path: Path) -> None:
    """Half of the sentences have at most 17 words, and none has more than 40."""
    markdown = documents.text(path)
    assert too_long(markdown) == []
    assert median(markdown) <= WORDS_MEDIAN_MAX


@pytest.mark.parametrize("path", DOCUMENTS, ids=documents.name_of)
def test_words_are_the_readers(path: Path) -> None:
    """No document uses a phrase that nobody says, or a word that only the code knows; the glossary defines these."""
    markdown = documents.text(path)
    if path.name == "CONTRIBUTING.md":
        markdown = markdown.replace(documents.section(markdown, "Glossary"), "")
    assert refused_words(markdown) == []


@pytest.mark.parametrize("word", HOUSE_WORDS)
def test_house_words_are_defined_once(word: str) -> None:
    """Who meets such a name in the code finds its meaning in one row of the glossary."""
    glossary = documents.section(documents.text(documents.ROOT / "CONTRIBUTING.md"), "Glossary")
    named = [row.split("|")[1] for row in glossary.splitlines() if row.startswith("|")]
    singular = {"lives": "life"}.get(word, word)
    assert len([names for names in named if re.search(rf"\b{singular}\b", names, re.IGNORECASE)]) == 1


def test_comments_are_said_aloud_too() -> None:
    """No comment or docstring uses a phrase that nobody says. The names that only the code knows are allowed there."""
    sources = [path for folder in CODE for path in (documents.ROOT / folder).rglob("*.py")]
    words = {path: documents.words_of(documents.text(path)) for path in sources}
    assert len(words) > 300
    found = [f"{documents.name_of(path)}: {each}" for path, text in words.items() for each in refused_phrases(text)]
    assert not found, "\n".join(found)


def test_long_sentences_are_found() -> None:
    """The measure counts words up to a full stop; colons, lists of cases and links do not hide any."""
    words = " ".join(["Word"] * 20)
    assert too_long(f"{words}: {words}; {words}. Short.") == [f"{words}: {words}; {words}."]
    assert too_long(f"- {words} {words}\n- {words} {words}\n\n{words}. {words}. {words}.\n") == []
    assert len(too_long(f"- {words} {words}\n  {words}\n")) == 1
    assert documents.sentences("# No\n| no |\n![no](x)\n```sh\nno\n```\nA [b c](d). Is it? Yes (so). It is.") == [
        "A [b c].",
        "Is it?",
        "Yes (so).",
        "It is.",
    ]
    assert median("One two. One two three. One two three four.") == 3


@pytest.mark.parametrize("phrase", ["It would else wait.", "The key lies in it.", "It begins anew.", "two lives"])
def test_refused_words_are_found(phrase: str) -> None:
    """Each kind of refused word is seen in prose, and not where it is the name of something."""
    assert len(refused_words(phrase)) == 1
    assert refused_words("`standing` and `LIVES_MAX`, underlies, lifetime") == []
