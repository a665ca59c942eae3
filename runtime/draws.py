"""Random numbers in PyTorch: Philox4x32 with ten rounds, the same numbers as every other backend's.

They are a function of the seed, the parameter, the step, the element and the place in the spec, and of nothing else. See
`dsl/philox.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optc.runtime.schema import Kernel, Procedure, Stream
from optc.runtime.sharding import Runs

ELEMENTS = 1 << 40
"""The elements of parameter p of an optimizer (0, 1, … over all groups) are numbered from (p + 1)·ELEMENTS on."""

PLACES = 256
"""See `dsl/philox.py`."""

_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def draws(procedure: Procedure) -> bool:
    """Whether a procedure draws random numbers: then elements lie in memory in the order of their numbers."""
    return any(kernel_draws(kernel) for kernel in procedure.kernels)


def kernel_draws(kernel: Kernel) -> bool:
    """Whether a kernel draws random numbers."""
    return draws_for(kernel.streams)


def draws_for(streams: Iterable[Stream]) -> bool:
    """Whether random numbers are drawn where these streams are read."""
    return any(stream.role == "element" for stream in streams)


def first_element(parameter: int) -> int:
    """The number of the first element of a parameter."""
    return (parameter + 1) * ELEMENTS


@dataclass(frozen=True, slots=True)
class Elements:
    """Every `stride`-th element of a parameter, from the `start`-th of those in `runs` on; random numbers for them have this
    shape, dtype and device.
    """

    runs: Runs
    shape: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    start: int = 0
    stride: int = 1

    def picked(self, p: float) -> Elements:
        """Every p-th of them, flattened, from the first one on; `p` is whole, at least 1."""
        size = torch.Size(self.shape).numel()
        stride = min(int(p), max(1, size))
        return replace(self, shape=(-(-size // stride),), stride=self.stride * stride)

    def words(self, third: int, fourth: int, *key: int) -> Tensor:
        """The word of each element, in the order of their numbers, flattened: 32 bits as 64-bit integers."""
        size, (first, length, step) = torch.Size(self.shape).numel(), self.runs
        if self.stride == 1 and not step:  # a block serves four
            first, skipped = divmod(first + self.start, 4)
            blocks = torch.arange(first, first + (skipped + size + 3) // 4, device=self.device)
            return torch.stack(philox(blocks, third, fourth, *key), -1).flatten()[skipped : skipped + size]
        numbers = torch.arange(size, device=self.device) * self.stride + self.start
        if step:
            numbers = numbers // max(length, 1) * step + numbers % max(length, 1)
        numbers += first
        words = torch.stack(philox(numbers >> 2, third, fourth, *key), -1)
        return words.gather(-1, (numbers & 3)[:, None]).squeeze(-1)


def philox(blocks: Tensor, third: int, fourth: int, *key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of 32 bits of each block, as 64-bit integers."""
    a, b = blocks & _LOW, blocks >> 32
    c, d = torch.full_like(blocks, third), torch.full_like(blocks, fourth)
    for turn in range(_ROUNDS):
        first, second = ((k + turn * w) & _LOW for k, w in zip(key, _WEYL, strict=True))
        one, other = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # modulo 2^64, as bits
        a, b, c, d = (other >> 32 & _LOW) ^ b ^ first, other & _LOW, (one >> 32 & _LOW) ^ d ^ second, one & _LOW
    return a, b, c, d


def uniform(element: Elements, seed_low: float, seed_high: float, step_low: float, step_high: float, place: float) -> Tensor:
    """For each element a number from [0, 1), a multiple of 2^-24."""
    fourth = int(step_high) * PLACES + int(place)
    words = element.words(int(step_low), fourth, int(seed_low), int(seed_high))
    return (words >> 8).to(element.dtype).mul_(2.0**-24).view(torch.Size(element.shape))
