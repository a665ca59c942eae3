"""What memory allows: bandwidth of updating in place and of reading, measured beside the contestants.

A pass that mostly reads cannot reach the bandwidth of one that writes where it read, so there are two floors:
max(bytes / in-place bandwidth, bytes read / read bandwidth).
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.timing import Contestant, Timings

READ_STREAMS = 8
ADD, READ = "control: add in place", "control: read"

_CODE = r"""
#include <cstdint>
// The sum of squares of n floats, read as 8 streams at once by every thread.
extern "C" double sum_of_squares(const float* x, int64_t n, int threads) {
    const int64_t part = n / 8;
    double total = 0;
    #pragma omp parallel for schedule(static) reduction(+:total) num_threads(threads)
    for (int64_t block = 0; block < part / 4096; block++) {
        float sum = 0;
        const float* p = x + block * 4096;
        #pragma omp simd reduction(+:sum)
        for (int64_t i = 0; i < 4096; i++) {
            float a = p[i], b = p[i + part], c = p[i + 2 * part], d = p[i + 3 * part];
            float e = p[i + 4 * part], f = p[i + 5 * part], g = p[i + 6 * part], h = p[i + 7 * part];
            sum += a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h;
        }
        total += sum;
    }
    return total;
}
"""


class NoCompiler(RuntimeError):
    """There is no C++ compiler, so neither this control nor the native backend can run."""


@cache
def _library() -> ctypes.CDLL:
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoCompiler("no C++ compiler (c++, g++, clang++): the native backend cannot be measured")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "read.cpp"), Path(folder, "read.so")
        source.write_text(_CODE, encoding="utf-8")
        options = ["-O3", "-march=native", "-fopenmp", "-ffast-math", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, str(source), "-o", str(target)], check=True)
        library = ctypes.CDLL(str(target))
    library.sum_of_squares.restype = ctypes.c_double
    library.sum_of_squares.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    return library


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second of the two controls."""

    in_place: float
    read: float

    def floor(self, bytes_read: float, bytes_written: float) -> float:
        """Seconds below which no pass over these bytes can get here."""
        return max((bytes_read + bytes_written) / self.in_place, bytes_read / self.read)


@dataclass(frozen=True, slots=True)
class Controls:
    """Two contestants over `elements` floats of their own."""

    buffer: torch.Tensor

    @staticmethod
    def of(elements: int) -> Controls:
        """Controls over a buffer that is large enough to be in no cache; rounded to whole blocks of all streams."""
        whole = READ_STREAMS * 4096
        return Controls(torch.ones(max(1, elements // whole) * whole))

    def contestants(self) -> list[Contestant]:
        """Adding to every element in place, and reading every element."""
        x, library, threads = self.buffer, _library(), torch.get_num_threads()
        return [
            Contestant(ADD, lambda: x.add_(1e-6)),
            Contestant(READ, lambda: library.sum_of_squares(x.data_ptr(), x.numel(), threads)),
        ]

    def bandwidth(self, timings: Timings) -> Bandwidth:
        """From the medians of this run."""
        size = 4 * self.buffer.numel()
        return Bandwidth(2 * size / timings.median(ADD), size / timings.median(READ))
