"""Random numbers: a function of the seed, the parameter, the step, the element and the place in the text, and of nothing else.

The function is Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). The first two
words of its counter are the number of the element, which no other element of the model has; the others are the step and the
block. The key is the seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ELEMENTS = 1 << 40
"""The elements of parameter p (0, 1, …) are numbered from (p + 1)·ELEMENTS on, in the order of its dimensions."""

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


def drawn(word: int, elements: _Words, *given: float) -> npt.NDArray[np.float64]:
    """The meaning of `uniform_0` … `uniform_3`; `given` are the two words of the seed, the step and the block."""
    seed_low, seed_high, step, block = (int(number) for number in given)
    return (philox(elements, step, block, seed_low, seed_high)[word] >> np.uint64(8)).astype(np.float64) * 2.0**-24


def philox(elements: _Words, third: int, fourth: int, *key: int) -> tuple[_Words, _Words, _Words, _Words]:
    """The four words of 32 bits for the counters (element, its upper half, third, fourth), as 64-bit integers."""
    a, b = elements & _LOW, elements >> _HALF
    c, d = np.full_like(elements, third), np.full_like(elements, fourth)
    for turn in range(_ROUNDS):
        first, second = (np.uint64((k + turn * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        one, other = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (other >> _HALF) ^ b ^ first, other & _LOW, (one >> _HALF) ^ d ^ second, one & _LOW
    return a, b, c, d
