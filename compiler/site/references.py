"""References of a spec as links, where they name a place that is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_ARXIV = re.compile(r"arXiv:((?:[0-9]{4}\.[0-9]{4,5}|[a-z-]+(?:\.[A-Z]{2})?/[0-9]{7})(?:v[0-9]+)?)")
_DOI = re.compile(r"doi:(10\.[0-9]{4,9}/\S+)")
_OPENREVIEW = re.compile(r"openreview:([\w-]+)", re.ASCII)
_GITHUB = re.compile(r"github\.com/[\w.-]+/[\w.-]+", re.ASCII)
_YEAR = re.compile(r"\b((?:19|20)[0-9]{2})\b")


@dataclass(frozen=True, slots=True)
class Reference:
    """`url` is None where the text names no known place; `year` where it tells none."""

    text: str
    url: str | None
    year: int | None


def reference(text: str) -> Reference:
    """What a `cite` says. Its link leads to arXiv, doi.org, OpenReview or GitHub, whatever stands in the text."""
    year = _YEAR.search(text)
    if match := _ARXIV.fullmatch(text):
        number = match[1].rpartition("/")[2]
        century = 1900 if number[0] == "9" and "/" in match[1] else 2000
        return Reference(text, f"https://arxiv.org/abs/{match[1]}", century + int(number[:2]))
    if match := _DOI.fullmatch(text):
        return Reference(text, f"https://doi.org/{quote(match[1], safe='/().-_;')}", _year_of_doi(match[1]))
    if match := _OPENREVIEW.fullmatch(text):
        return Reference(text, f"https://openreview.net/forum?id={match[1]}", None)
    if _GITHUB.fullmatch(text):
        return Reference(text, f"https://{text}", None)
    return Reference(text, None, int(year[1]) if year else None)


def _year_of_doi(doi: str) -> int | None:
    match = _YEAR.search(doi)
    return int(match[1]) if match else None
