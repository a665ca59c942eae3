"""The form that data from outside must have: small functions, put together, that say where and how something is otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Form: TypeAlias = Callable[[Any, str], str | None]
"""Looks at what was found at a place (that of the whole is ""), and says what is wrong; None where nothing is."""
_SHOWN = 40


def leaf(what: str, fits: Callable[[Any], bool]) -> Form:
    """Something that has no parts to look at."""
    return lambda found, place: None if fits(found) else f"{place} must be {what}, not {_shown(found)}"


def rows(of: Form) -> Form:
    """A list whose members all have one form."""

    def look(found: Any, place: str) -> str | None:
        if not isinstance(found, list):
            return f"{place} must be a list, not {_shown(found)}"
        return _first(of(one, f"{place}[{at}]") for at, one in enumerate(found))

    return look


def table(of: Form) -> Form:
    """A table with any keys, whose values all have one form."""

    def look(found: Any, place: str) -> str | None:
        if not isinstance(found, dict):
            return f"{place} must be a table, not {_shown(found)}"
        return _first(of(one, f"{place}[{_shown(key)}]") for key, one in found.items())

    return look


def fields(**forms: Form) -> Form:
    """A table that has these keys; what else it has is not looked at."""

    def look(found: Any, place: str) -> str | None:
        if not isinstance(found, dict):
            return f"{place or 'it'} must be a table, not {_shown(found)}"
        missing = next((key for key in forms if key not in found), None)
        if missing is not None:
            return f"{place or 'it'} lacks {missing!r}"
        return _first(form(found[key], f"{place}.{key}" if place else key) for key, form in forms.items())

    return look


def maybe(of: Form) -> Form:
    """The same, or null."""
    return lambda found, place: None if found is None else of(found, place)


TEXT = leaf("a text", lambda found: isinstance(found, str))
TRUTH = leaf("true or false", lambda found: isinstance(found, bool))
COUNT = leaf("a whole number, 0 or above", lambda found: isinstance(found, int) and not isinstance(found, bool) and found >= 0)


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
