"""Names as users write them: case, `_`, `-` and spaces do not count."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def folded(name: str) -> str:
    """What two spellings of one name have in common."""
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def found_name(name: str, known: Iterable[str], what: str) -> str:
    """The known name that is meant. Raises ValueError, with the nearest ones, where there is none."""
    names = list(known)
    by_fold = {folded(one): one for one in names}
    found = by_fold.get(folded(name))
    if found is None:
        near = [by_fold[close] for close in difflib.get_close_matches(folded(name), by_fold, 3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
        raise ValueError(f"no {what} is called {name!r}: {hint}")
    return found
