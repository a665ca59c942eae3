"""What assembly says about a kernel: its loops, and the width of each access to global memory in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

_PTX_ACCESS = re.compile(r"^(@!?%p\d+\s+)?(ld|st)\.(?:volatile\.|relaxed\.\w+\.)?global\S*?(?:\.v(\d))?\.[bfsu](\d+)\s")
_PTX_LABEL = re.compile(r"^(\$L\w+):")
_PTX_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$L\w+)")
_PTX_ENDS = re.compile(r"^(?:bra(?:\.uni)?\s|ret;|exit;)")
_GCN_ACCESS = re.compile(r"^(?:global|buffer|flat)_(load|store)_(\w+)")
_GCN_LABEL = re.compile(r"^(\.LBB\w+):")
_GCN_BRANCH = re.compile(r"^s_c?branch\w*\s+(\.LBB\w+)")
_GCN_ENDS = re.compile(r"^(?:s_branch\s|s_endpgm|s_setpc)")
_GCN_BYTES = {"dword": 4, "b32": 4, "b64": 8, "b96": 12, "b128": 16, "ushort": 2, "u16": 2, "short": 2, "b16": 2, "sshort": 2}


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store of global memory per thread: bytes, and whether a predicate guards it."""

    store: bool
    bytes: int
    guarded: bool


@dataclass(frozen=True, slots=True)
class Loop:
    """The accesses between a label and a branch back to it."""

    accesses: tuple[Access, ...]

    @property
    def guarded(self) -> bool:
        """Whether any access is masked."""
        return any(a.guarded for a in self.accesses)

    def bytes(self, store: bool) -> int:
        """Bytes that one thread loads or stores in one turn."""
        return sum(a.bytes for a in self.accesses if a.store is store)


Parse: TypeAlias = Callable[[str], Access | None]


def ptx_loops(ptx: str, around: int = 0) -> list[Loop]:
    """Loops of a PTX kernel that store to global memory, in the order of the text; if none does, those that load.

    Each with what is nested in it: of outermost loops, or of those that have so many loops `around` them.
    """
    return _moving(_loops(ptx, around, _PTX_LABEL, _PTX_BRANCH, _PTX_ENDS, _ptx_access))


def gcn_loops(assembly: str, around: int = 0) -> list[Loop]:
    """The same of an AMD kernel. Masks live in a register there: nothing looks guarded."""
    return _moving(_loops(assembly, around, _GCN_LABEL, _GCN_BRANCH, _GCN_ENDS, _gcn_access))


def _moving(loops: Iterable[Loop]) -> list[Loop]:
    """Maths functions have loops that look things up: where others store, loops that only load are those."""
    found = [loop for loop in loops if loop.accesses]
    return [loop for loop in found if loop.bytes(True)] or found


def _ptx_access(line: str) -> Access | None:
    found = _PTX_ACCESS.match(line)
    if found is None:
        return None
    guard, kind, lanes, bits = found.groups()
    return Access(kind == "st", int(lanes or 1) * int(bits) // 8, guard is not None)


def _gcn_access(line: str) -> Access | None:
    found = _GCN_ACCESS.match(line)
    if found is None:
        return None
    kind, width = found.groups()
    if vector := re.match(r"dwordx(\d)", width):
        size = 4 * int(vector[1])
    else:
        size = next((_GCN_BYTES[w] for w in (width, width.split("_")[0], width.split("_")[-1]) if w in _GCN_BYTES), 1)
    return Access(kind == "store", size, False)


def _loops(
    text: str, around: int, label: re.Pattern[str], branch: re.Pattern[str], ends: re.Pattern[str], parse: Parse
) -> Iterator[Loop]:
    """The strongly connected parts of the control flow: a loop with what is nested in it, however its blocks are laid out."""
    blocks: list[list[str]] = [[]]
    starts: dict[str, int] = {}
    for line in (line.strip() for line in text.splitlines()):
        if found := label.match(line):
            blocks.append([])
            starts[found[1]] = len(blocks) - 1
        blocks[-1].append(line)
        if branch.search(line) or ends.match(line):
            blocks.append([])
    edges: list[list[int]] = []
    for number, block in enumerate(blocks):
        targets = [starts[f[1]] for line in block if (f := branch.search(line)) and f[1] in starts]
        falls = not (block and ends.match(block[-1])) and number + 1 < len(blocks)
        edges.append(targets + [number + 1] * falls)
    for part in _circles(edges, range(len(blocks)), around):
        yield Loop(tuple(a for m in part for line in blocks[m] if (a := parse(line)) is not None))


def _circles(edges: list[list[int]], within: Iterable[int], around: int) -> Iterator[list[int]]:
    """The strongly connected parts among some blocks; of each, if more are `around`, those that are left without its head."""
    blocks = set(within)
    inner = [[m for m in targets if m in blocks] if n in blocks else [] for n, targets in enumerate(edges)]
    reached = {n: _reachable(inner, n) for n in blocks}
    seen: set[int] = set()
    for n in sorted(blocks):
        if n in seen or n not in reached[n]:
            continue
        part = [m for m in sorted(reached[n]) if n in reached[m]]
        seen.update(part)
        if around:
            heads = {m for k, targets in enumerate(edges) if k not in part for m in targets if m in part}
            opened = [[m for m in targets if m not in heads] for targets in edges]
            yield from _circles(opened, part, around - 1)
        else:
            yield part


def _reachable(edges: list[list[int]], start: int) -> set[int]:
    """Blocks that can run after `start`; itself only if it can run again."""
    found: set[int] = set()
    waiting = list(edges[start])
    while waiting:
        block = waiting.pop()
        if block not in found:
            found.add(block)
            waiting += edges[block]
    return found
