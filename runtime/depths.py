"""How deep in a model a parameter lies, by its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Depth: TypeAlias = Callable[[str], int]
"""From a parameter's name to its depth: 0 at the input."""

_LISTS = "blocks block layers layer h stages resblocks transformer_blocks encoder_layers decoder_layers".split()
_NUMBERED = re.compile(rf"^((?:.*?\.)??(?:{'|'.join(_LISTS)}))\.(\d+)(?:\.|$)")


def depths(names: Sequence[str], given: Depth | None) -> list[int]:
    """The depth of each parameter. See `groups.layerwise` for the rule.

    Raises ValueError where no name has a numbered block, or where `given` says what is no depth.
    """
    if given is not None:
        return [_checked(given, name) for name in names]
    matches = [_NUMBERED.match(name) for name in names]
    lengths: dict[str, int] = {}
    for block in filter(None, matches):
        lengths[block[1]] = max(lengths.get(block[1], 0), int(block[2]) + 1)
    if not lengths:
        shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
        raise ValueError(f"layerwise: no name has a numbered block such as 'blocks.3.' ({shown}): give depth=, a name's depth")
    before, blocks = {}, 0
    for prefix, length in lengths.items():
        before[prefix] = blocks
        blocks += length
    behind = max(place for place, match in enumerate(matches) if match is not None)
    found, reached = [], 0
    for place, match in enumerate(matches):
        depth = reached if match is None else before[match[1]] + int(match[2]) + 1
        reached = max(reached, depth)
        found.append(blocks + 1 if place > behind else depth)
    return found


def _checked(given: Depth, name: str) -> int:
    depth = given(name)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ValueError(f"layerwise: the depth of {name!r} is {depth!r}, but it must be a whole number of 0 or above")
    return depth
