"""How deep in a model a parameter lies, by its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Depth: TypeAlias = Callable[[str], int]
"""From a parameter's name to its depth: 0 at the input."""

_LIST = r"(?:blocks|block|layers|layer\d*|h|stages|levels|resblocks|transformer_blocks|encoder_layers|decoder_layers)"
_NUMBERED = re.compile(rf"((?:.*?\.)??{_LIST})((?:\.\d+\.(?:blocks|layers))?)\.(\d+)(?:\.|$)")
"""A list of blocks, its number in that where it is one of several (`stages.1.blocks`), and the block's number."""


def depths(names: Sequence[str], given: Depth | None) -> list[int]:
    """The depth of each parameter. See `groups.layerwise` for the rule.

    Raises ValueError where no name has a numbered block, or where `given` says what is no depth.
    """
    if given is not None:
        if not callable(given):
            raise TypeError(f"layerwise: depth = {given!r}, but it must be a function from a name to a whole number")
        return [_checked(given, name) for name in names]
    # names in a list of lists that are in none of its blocks (`stages.1.downsample`) have a match, and no block
    matches = [_NUMBERED.match(name) for name in names]
    outer = {match[1] for match in matches if match is not None and match[2]}
    blocks_of = [match if match is None or match[2] or match[1] not in outer else None for match in matches]
    lengths: dict[str, int] = {}
    for known in filter(None, blocks_of):
        lengths[known[1] + known[2]] = max(lengths.get(known[1] + known[2], 0), int(known[3]) + 1)
    if not lengths:
        shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
        raise ValueError(f"layerwise: no name has a numbered block such as 'blocks.3.' ({shown}): give depth=, a name's depth")
    before, blocks = {}, 0
    for prefix, length in lengths.items():
        before[prefix] = blocks
        blocks += length
    starts = {f"{b[1]}.{b[2].split('.')[1]}": before[b[1] + b[2]] + 1 for b in blocks_of if b is not None and b[2]}
    behind = max(place for place, block in enumerate(blocks_of) if block is not None)
    found, reached = [], 0
    for place, (block, match) in enumerate(zip(blocks_of, matches, strict=True)):
        depth = reached
        if block is not None:
            depth = before[block[1] + block[2]] + int(block[3]) + 1
        elif match is not None:
            depth = max(reached, starts.get(f"{match[1]}.{match[3]}", 0))
        reached = max(reached, depth)
        found.append(blocks + 1 if place > behind else depth)
    return found


def _checked(given: Depth, name: str) -> int:
    depth = given(name)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ValueError(f"layerwise: the depth of {name!r} is {depth!r}, but it must be a whole number of 0 or above")
    return depth
