"""Names in generated code: the spec's own, kept apart from the target's keywords and from each other."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

PYTHON = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist)
CPP = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl concept
    const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete do double
    dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
    not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires return short signed sizeof
    static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename union
    unsigned using virtual void volatile wchar_t while xor xor_eq main errno assert NULL INFINITY NAN M_PI""".split()
)


class Namer:
    """Hands out names that are free in one scope; the same wish always gets the same name."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._given: dict[str, str] = {}

    def __call__(self, wish: str) -> str:
        """`wish`, with `_` appended until nothing else has that name."""
        if wish not in self._given:
            name = wish
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self._given[wish] = name
        return self._given[wish]
