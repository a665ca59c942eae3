"""Float64 loops for optimizers that draw random numbers, with a generator of their own on Python's integers.

Plain code from the papers: Philox4x32 with ten rounds as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" of
2011, and Box and Muller's transform.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Array, Problem


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The four words of 32 bits."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        one, other = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = other >> 32 ^ b ^ first, other % 2**32, one >> 32 ^ d ^ second, one % 2**32
        first, second = (first + 0x9E3779B9) % 2**32, (second + 0xBB67AE85) % 2**32
    return a, b, c, d


def uniforms(seed: int, t: int, shape: tuple[int, ...], parameter: int = 0, place: int = 0, first: int = 0) -> Array:
    """A number from [0, 1) for each element of a parameter, from its element `first` on: multiples of 2^-24."""
    key = seed % 2**24, seed // 2**24 % 2**24
    begin, count = (parameter + 1) * 2**40 + first, math.prod(shape)
    words: list[int] = []
    for block in range(begin // 4, (begin + count + 3) // 4):
        words += philox((block % 2**32, block // 2**32, t % 2**24, t // 2**24 * 256 + place), key)
    own = words[begin % 4 : begin % 4 + count]
    return np.array([(word >> 8) / 2**24 for word in own], dtype=np.float64).reshape(shape)


def normals(seed: int, t: int, shape: tuple[int, ...], parameter: int = 0) -> Array:
    """A normally distributed number for each element: the first call of `normal` in a spec."""
    one, other = (uniforms(seed, t, shape, parameter, place) for place in (0, 1))
    return np.asarray(np.sqrt(-2 * np.log(1 - one)) * np.cos(2 * math.pi * other))


def penalised(g: Array, hypers: Hypers, theta: Array) -> Array:
    """The gradient with the prior's; without one θ is not looked at."""
    decay = hypers.get("weight_decay", 0.0)
    return g + decay * theta if decay != 0 else g


def sgld(hypers: Hypers, problem: Problem) -> Run:
    """SGLD, Welling and Teh 2011, equation 4, with ε = 2·lr and a temperature."""
    theta, thetas = problem.theta.copy(), []
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        noise = math.sqrt(2 * lr * hypers.get("temperature", 1.0)) * normals(hypers.get("seed", 0), t, theta.shape)
        theta = theta - lr * penalised(g, hypers, theta) + noise
        thetas.append(theta.copy())
    return thetas, {}


def psgld(hypers: Hypers, problem: Problem) -> Run:
    """pSGLD, arXiv:1512.07666, Algorithm 1 without Γ, with ε = 2·lr and a temperature."""
    alpha, eps = hypers.get("alpha", 0.99), hypers.get("eps", 1e-5)
    theta, thetas, v = problem.theta.copy(), [], np.zeros_like(problem.theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        g = penalised(g, hypers, theta)
        v = alpha * v + (1 - alpha) * g * g
        preconditioner = 1 / (eps + np.sqrt(v))
        deviation = np.sqrt(2 * lr * hypers.get("temperature", 1.0) * preconditioner)
        theta = theta - lr * preconditioner * g + deviation * normals(hypers.get("seed", 0), t, theta.shape)
        thetas.append(theta.copy())
    return thetas, {"square_avg": v}
