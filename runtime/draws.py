"""Random numbers in PyTorch: Philox4x32 with ten rounds, the same numbers as every other backend's.

They are a function of the seed, the parameter, the step, the element and the place in the spec, and of nothing else. See
`dsl/philox.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime.schema import Kernel, Procedure

ELEMENTS = 1 << 40
"""The elements of parameter p of an optimizer (0, 1, … over all groups) are numbered from (p + 1)·ELEMENTS on."""

_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def draws(procedure: Procedure) -> bool:
    """Whether a procedure draws random numbers: then elements lie in memory in the order of their numbers."""
    return any(kernel_draws(kernel) for kernel in procedure.kernels)


def kernel_draws(kernel: Kernel) -> bool:
    """Whether a kernel draws random numbers."""
    return any(stream.role == "element" for stream in kernel.streams)


def first_element(parameter: int) -> int:
    """The number of the first element of a parameter."""
    return (parameter + 1) * ELEMENTS


@dataclass(frozen=True, slots=True)
class Elements:
    """Every `stride`-th element of a parameter, numbered from `first` on; random numbers for them have this shape, dtype and
    device.
    """

    first: int
    shape: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    stride: int = 1

    def picked(self, p: float) -> Elements:
        """Every p-th of them, flattened, from the first one on; `p` is whole, at least 1."""
        size = torch.Size(self.shape).numel()
        stride = min(int(p), max(1, size))
        return replace(self, shape=(-(-size // stride),), stride=self.stride * stride)

    def philox(self, third: int, fourth: int, *key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four words of 32 bits for each element, as 64-bit integers."""
        size = torch.Size(self.shape).numel()
        numbers = (torch.arange(size, device=self.device) * self.stride + self.first).view(torch.Size(self.shape))
        a, b = numbers & _LOW, numbers >> 32
        c, d = torch.full_like(numbers, third), torch.full_like(numbers, fourth)
        for turn in range(_ROUNDS):
            first, second = ((k + turn * w) & _LOW for k, w in zip(key, _WEYL, strict=True))
            one, other = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # modulo 2^64, as bits
            a, b, c, d = (other >> 32 & _LOW) ^ b ^ first, other & _LOW, (one >> 32 & _LOW) ^ d ^ second, one & _LOW
        return a, b, c, d


def _uniform(word: int, element: Elements, *given: float) -> Tensor:
    seed_low, seed_high, step, block = map(int, given)
    return (element.philox(step, block, seed_low, seed_high)[word] >> 8).to(element.dtype).mul_(2.0**-24)


def uniforms(draw: str, element: Elements, *given: float) -> Tensor:
    """The draw of this name, "uniform_0" to "uniform_3", for each element."""
    return _uniform(int(draw.removeprefix("uniform_")), element, *given)


def uniform_0(element: Elements, seed_low: float, seed_high: float, step: float, block: float) -> Tensor:
    """Word 0 for each element: a number from [0, 1), a multiple of 2^-24."""
    return _uniform(0, element, seed_low, seed_high, step, block)


def uniform_1(element: Elements, seed_low: float, seed_high: float, step: float, block: float) -> Tensor:
    """Word 1 for each element."""
    return _uniform(1, element, seed_low, seed_high, step, block)


def uniform_2(element: Elements, seed_low: float, seed_high: float, step: float, block: float) -> Tensor:
    """Word 2 for each element."""
    return _uniform(2, element, seed_low, seed_high, step, block)


def uniform_3(element: Elements, seed_low: float, seed_high: float, step: float, block: float) -> Tensor:
    """Word 3 for each element."""
    return _uniform(3, element, seed_low, seed_high, step, block)
