"""How θ is read and written where it is kept as a pair (`runtime/gpu_pairs.py`)."""

from __future__ import annotations

_DROP = {"split24": 8, "split32": 0}
_FORMS = {"kahan": "sum", "master": "whole"}


def join_text(pair: str, theta: str, rest: str) -> str:
    """The number at these addresses."""
    if pair in _DROP:
        return f"gpu_pairs.join_bits({theta}, {rest}, mask, {_DROP[pair]}, real)"
    return f"gpu_pairs.join_{_FORMS[pair]}({theta}, {rest}, mask, real)"


def split_text(pair: str, number: str, theta: str, rest: str) -> str:
    """The store of a number."""
    if pair in _DROP:
        return f"gpu_pairs.split_bits({number}, {theta}, {rest}, mask, {_DROP[pair]})"
    return f"gpu_pairs.split_{_FORMS[pair]}({number}, {theta}, {rest}, mask)"
