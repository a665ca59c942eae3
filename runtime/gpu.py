"""The primitive operations of the language in Triton, for float32 and float64, as generated kernels call them.

Rounding is IEEE's where Triton's default is an estimate: its plain `/` and `tl.sqrt` compile to `div.full` and
`sqrt.approx.ftz` in float32 (2 ulp, and denormals flushed to zero). Transcendental functions are libdevice's (OCML on AMD).
Arguments are tensors or typed scalars, never bare Python numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice


@triton_kernel
def read_scalar(
    argument: tl.tensor, memory: tl.tensor, index: tl.constexpr, IN_MEMORY: tl.constexpr, real: tl.constexpr
) -> tl.tensor:
    """A scalar of the step: the launch's argument, or `memory[index]`."""
    if IN_MEMORY:
        return tl.load(memory + index).to(real)
    else:
        return tl.full((), argument, real)


@triton_kernel
def read_flag(place: tl.tensor) -> tl.tensor:
    """A flag in memory, 1 or 0; `&`, as Triton's interpreter takes a comparison of numbers for one when it spreads it."""
    return tl.full((), True, tl.int1) & (tl.load(place) != 0)


@triton_kernel
def div(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a/b, correctly rounded."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton_kernel
def sqrt(a: tl.tensor) -> tl.tensor:
    """Square root, correctly rounded."""
    if a.dtype == tl.float64:
        return tl.sqrt(a)
    else:
        return tl.sqrt_rn(a)


@triton_kernel
def square(a: tl.tensor) -> tl.tensor:
    """a*a: what `a^2` is, without the general power."""
    return a * a


@triton_kernel
def neg(a: tl.tensor) -> tl.tensor:
    """-a with the sign of zero turned, too (Triton's own minus is 0 - a)."""
    return a * -1.0


@triton_kernel
def sign(a: tl.tensor) -> tl.tensor:
    """-1, 0 or 1; NaN stays NaN."""
    return tl.where(a > 0.0, 1.0, tl.where(a < 0.0, -1.0, tl.where(a == 0.0, 0.0, a)))


@triton_kernel
def minimum(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The smaller one; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton_kernel
def maximum(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The larger one; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton_kernel
def floor(a: tl.tensor) -> tl.tensor:
    """The largest whole number not above a."""
    return tl.floor(a)


@triton_kernel
def mod(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a - b*floor(a/b), exactly: the remainder with the divisor's sign."""
    r = libdevice.fmod(a, b)
    return tl.where((r != 0.0) & ((r < 0.0) != (b < 0.0)), r + b, r)


@triton_kernel
def exp(a: tl.tensor) -> tl.tensor:
    """e^a."""
    return libdevice.exp(a)


@triton_kernel
def log(a: tl.tensor) -> tl.tensor:
    """The natural logarithm."""
    return libdevice.log(a)


@triton_kernel
def sin(a: tl.tensor) -> tl.tensor:
    """The sine of a in radians."""
    return libdevice.sin(a)


@triton_kernel
def cos(a: tl.tensor) -> tl.tensor:
    """The cosine of a in radians."""
    return libdevice.cos(a)


@triton_kernel
def cospi(a: tl.tensor) -> tl.tensor:
    """cos πa as the sine of what is left to a quarter turn, by its series: no slow path for large arguments, as cos has one."""
    b = 0.5 - tl.abs(a - 2.0 * floor(a * 0.5 + 0.5))
    w = b * b
    if a.dtype == tl.float64:
        s = -1.0518471716932054e-11 * w + 5.392664662608128e-10
        s = (s * w - 2.2948428997269873e-08) * w + 7.952054001475513e-07
        s = (s * w - 2.1915353447830217e-05) * w + 0.00046630280576761257
        s = (s * w - 0.00737043094571435) * w + 0.08214588661112823
    else:
        s = 0.00046630280576761257 * w - 0.00737043094571435
        s = s * w + 0.08214588661112823
    s = (s * w - 0.5992645293207921) * w + 2.550164039877345
    return (s * w - 5.16771278004997) * w * b + 3.141592653589793 * b


@triton_kernel
def tanh(a: tl.tensor) -> tl.tensor:
    """The hyperbolic tangent."""
    return libdevice.tanh(a)


@triton_kernel
def pow(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a^b by IEEE's rules: 0^0 is 1, a negative base with a fractional exponent is NaN."""
    return libdevice.pow(a, b)


@triton_kernel
def atan2(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The angle of the point (b, a)."""
    return libdevice.atan2(a, b)


@triton_kernel
def round_bf16(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a as bfloat16: away from 0 where the bits that are cut off, as a number from [0, 1), exceed b."""
    single = a.to(tl.float32)
    bits = single.to(tl.int32, bitcast=True)
    cut = bits & 0xFFFF
    away = tl.where(cut.to(b.dtype) > b * 65536.0, 0x10000, 0)
    # the kept bits are the signed number's upper half: 0x7fff0000 + 0x10000 is reached by NaN alone
    rounded = ((bits - cut) + away).to(tl.float32, bitcast=True)
    return tl.where(single == single, rounded, single).to(a.dtype)


@triton_kernel
def sum_with(total: tl.tensor, x: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Lane by lane, total + x; total where `mask` is given and does not hold."""
    if mask is None:
        return total + x
    else:
        return tl.where(mask, total + x, total)


@triton_kernel
def largest_with(total: tl.tensor, x: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Lane by lane, the larger one of total and x; total where `mask` is given and does not hold."""
    if mask is None:
        return maximum(total, x)
    else:
        return tl.where(mask, maximum(total, x), total)


@triton_kernel
def smallest_with(total: tl.tensor, x: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Lane by lane, the smaller one of total and x; total where `mask` is given and does not hold."""
    if mask is None:
        return minimum(total, x)
    else:
        return tl.where(mask, minimum(total, x), total)


@triton_kernel
def sum_of(total: tl.tensor) -> tl.tensor:
    """The sum of all lanes, in an order that the layout of the block fixes."""
    return tl.sum(total, 0)


@triton_kernel
def largest_of(total: tl.tensor) -> tl.tensor:
    """The largest lane; NaN if any is (Triton's own maximum passes over NaN, so it is added)."""
    return tl.max(tl.where(total == total, total, -float("inf")), 0) + tl.sum(tl.where(total == total, 0.0, total), 0)


@triton_kernel
def smallest_of(total: tl.tensor) -> tl.tensor:
    """The smallest lane; NaN if any is."""
    return tl.min(tl.where(total == total, total, float("inf")), 0) + tl.sum(tl.where(total == total, 0.0, total), 0)


@triton_kernel
def sum_in_row(total: tl.tensor) -> tl.tensor:
    """The sum of the lanes of each row of a block."""
    return tl.sum(total, 1)


@triton_kernel
def largest_in_row(total: tl.tensor) -> tl.tensor:
    """The largest lane of each row of a block; NaN if any is."""
    return tl.max(tl.where(total == total, total, -float("inf")), 1) + tl.sum(tl.where(total == total, 0.0, total), 1)


@triton_kernel
def smallest_in_row(total: tl.tensor) -> tl.tensor:
    """The smallest lane of each row of a block; NaN if any is."""
    return tl.min(tl.where(total == total, total, float("inf")), 1) + tl.sum(tl.where(total == total, 0.0, total), 1)


@triton_kernel
def numbered(i: tl.tensor, first: tl.tensor, length: tl.tensor, step: tl.tensor) -> tl.tensor:
    """The numbers of elements i of a tensor, int64: see `optc.runtime.sharding.Runs`."""
    number = i.to(tl.int64)
    if step != 0:
        number = number // length * step + number % length
    return number + first


@triton_kernel
def uniform(
    element: tl.tensor,
    seed_low: tl.tensor,
    seed_high: tl.tensor,
    step_low: tl.tensor,
    step_high: tl.tensor,
    place: tl.tensor,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """For each element a number from [0, 1), of the dtype of `step_low`: the upper 24 bits of a word of Philox, exactly.

    WHOLE: rows of elements begin with a multiple of a thread's lanes. In float32 these are four with one block of Philox, which
    is computed once; in float64 two, and each has its block computed for itself. See `dsl/philox.py`.
    """
    seed = seed_low.to(tl.int64) | (seed_high.to(tl.int64) << 32)
    third = step_low.to(tl.uint32)
    fourth = step_high.to(tl.uint32) * 256 + place.to(tl.uint32)
    SHARED: tl.constexpr = WHOLE and step_low.dtype == tl.float32
    if SHARED:
        blocks = tl.split(tl.split(tl.reshape(element, (element.numel // 4, 2, 2)))[0])[0] >> 2
    else:
        blocks = element >> 2
    low = (blocks & 0xFFFFFFFF).to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, (blocks >> 32).to(tl.uint32), third + low * 0, fourth + low * 0)
    if SHARED:
        words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), element.shape)
    else:
        odd = element & 1 != 0
        words = tl.where(element & 2 != 0, tl.where(odd, d, c), tl.where(odd, b, a))
    return (words >> 8).to(tl.int32).to(step_low.dtype) * 5.9604644775390625e-08


@triton_kernel
def nothing(operation: tl.constexpr) -> tl.constexpr:
    """What is kept of no elements; `operation` is "sum", "largest" or "smallest"."""
    return 0.0 if operation == "sum" else (-float("inf") if operation == "largest" else float("inf"))


@triton_kernel
def joined(a: tl.tensor, b: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """Two neighbouring nodes of a tree as one."""
    if operation == "sum":
        return a + b
    elif operation == "largest":
        return maximum(a, b)
    else:
        return minimum(a, b)


@triton_kernel
def levels_of(stack: tl.tensor) -> tl.tensor:
    """The level of every entry of a stack; the first axis counts them."""
    levels = tl.arange(0, stack.shape[0])
    return levels if len(stack.shape) == 1 else tl.broadcast_to(levels[:, None], stack.shape)


@triton_kernel
def at_level(stack: tl.tensor, level: tl.tensor) -> tl.tensor:
    """The node of a level; exact, as all that is added to it are zeros."""
    return tl.sum(tl.where(levels_of(stack) == level, stack, 0.0), 0)


@triton_kernel
def pushed(stack: tl.tensor, x: tl.tensor, index: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """A stack of nodes of a binary tree, one per level, after its leaf `index` (0, 1, …): a counter that carries.

    Any 2^k leaves from a multiple of 2^k on make a node of their own. So a tree that is built in such pieces, by whoever, and
    of them, is the same tree.
    """
    if stack.shape[0] > 1:
        level = index * 0
        rest = index
        while rest % 2 == 1:
            x = joined(at_level(stack, level), x, operation)
            level += 1
            rest = rest // 2
        levels = levels_of(stack)
        kept = tl.where(levels < level, nothing(operation), stack)
        return tl.where(levels == level, tl.broadcast_to(x if len(stack.shape) == 1 else x[None, :], stack.shape), kept)
    else:  # for one leaf
        return tl.broadcast_to(x if len(stack.shape) == 1 else x[None, :], stack.shape)


@triton_kernel
def folded(stack: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """What all leaves of a stack come to: what is left over at the end joins the nodes before it, the smallest first."""
    x = at_level(stack, 0)
    for level in tl.static_range(1, stack.shape[0]):
        x = joined(at_level(stack, level), x, operation)
    return x


@triton_kernel
def paired(x: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """The node over a power of two of leaves: neighbours are joined, then neighbours of those. Of two there is one order."""
    for _ in tl.static_range(16):
        if x.shape[0] > 1:
            pairs = tl.reshape(x, (x.shape[0] // 2, 2))
            if operation == "sum":
                x = sum_in_row(pairs)
            elif operation == "largest":
                x = largest_in_row(pairs)
            else:
                x = smallest_in_row(pairs)
    return tl.sum(x, 0)


@triton_kernel
def leaf(place: tl.tensor, k: tl.tensor, have: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """The partials at `place`, lane by lane, where a lane has more than `k`."""
    return tl.load(place, k < have, other=nothing(operation))


@triton_kernel
def eight(place: tl.tensor, stride: tl.tensor, k: tl.tensor, have: tl.tensor, operation: tl.constexpr) -> tl.tensor:
    """The nodes, lane by lane, over the partials k … k + 7 of each lane, `stride` apart; a lane has `have` of them."""
    place = place + k * stride
    ab = joined(leaf(place, k, have, operation), leaf(place + stride, k + 1, have, operation), operation)
    cd = joined(leaf(place + 2 * stride, k + 2, have, operation), leaf(place + 3 * stride, k + 3, have, operation), operation)
    ef = joined(leaf(place + 4 * stride, k + 4, have, operation), leaf(place + 5 * stride, k + 5, have, operation), operation)
    gh = joined(leaf(place + 6 * stride, k + 6, have, operation), leaf(place + 7 * stride, k + 7, have, operation), operation)
    return joined(joined(ab, cd, operation), joined(ef, gh, operation), operation)
