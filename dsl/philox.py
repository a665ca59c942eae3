"""Random numbers: a function of the seed, the parameter, the step, the element and the place in the text, and of nothing else.

The function is Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). A block of it
gives a word to each of four neighbours: that of element e, a number that no other element of the model has, is word `e mod 4`
of block `e div 4`. The first two words of the block's counter are its number, the third is the lower word of the step, the
fourth its upper one times PLACES plus the place. The key is the seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ELEMENTS = 1 << 40
"""The elements of parameter p (0, 1, …) are numbered from (p + 1)·ELEMENTS on, in the order of its dimensions."""

PLACES = 256
"""Of calls in the text of one spec, with all functions written out, at most."""

_Words = npt.NDArray[np.uint64]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def numbers_of_elements(parameter: int, shape: tuple[int, ...]) -> _Words:
    """The numbers of the elements of a parameter of this shape."""
    count = int(np.prod(shape, dtype=np.int64))
    return (np.arange(count, dtype=np.uint64) + np.uint64((parameter + 1) * ELEMENTS)).reshape(shape)


def drawn(elements: _Words, *given: float) -> npt.NDArray[np.float64]:
    """The meaning of `uniform`; `given` are the two words of the seed, the two of the step and the place in the text."""
    seed_low, seed_high, step_low, step_high, place = (int(number) for number in given)
    words = philox(elements >> np.uint64(2), step_low, step_high * PLACES + place, seed_low, seed_high)
    own = np.choose((elements & np.uint64(3)).astype(np.intp), words)
    return (own >> np.uint64(8)).astype(np.float64) * 2.0**-24


def philox(blocks: _Words, third: int, fourth: int, *key: int) -> tuple[_Words, _Words, _Words, _Words]:
    """The four words of 32 bits for the counters (block, its upper half, third, fourth), as 64-bit integers."""
    a, b = blocks & _LOW, blocks >> _HALF
    c, d = np.full_like(blocks, third), np.full_like(blocks, fourth)
    for turn in range(_ROUNDS):
        first, second = (np.uint64((k + turn * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        one, other = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (other >> _HALF) ^ b ^ first, other & _LOW, (one >> _HALF) ^ d ^ second, one & _LOW
    return a, b, c, d
