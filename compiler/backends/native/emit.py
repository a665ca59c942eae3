"""Plan kernel → C++17 text: one function over a contiguous range of elements, one line per statement of the spec.

The text needs `runtime/prelude.hpp` and `elementary.hpp` before it, `codes.hpp` where states are kept as codes, and one macro,
`OPTC_VARIANT`, the static flags as bits in the order of `kernel.static_flags`. Loads stand at the top of the loop, stores at
its end; what a variant does not need is removed by the C++ compiler, and streams that it lacks are never dereferenced. Kernels
of several passes are in `passes.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import jinja2

from optc.compiler.backends.native.drawn import Drawn, draws_before
from optc.compiler.backends.native.kept import CODES_NAMES, Codes, book_structs, books_taken, piece_constant
from optc.compiler.backends.native.lines import Lines, Names
from optc.compiler.backends.native.loop import Instances, Streams, flag_constants, scalar_constants, static_flags
from optc.compiler.backends.native.matrices import MatrixEmitter, knows_matrices
from optc.compiler.backends.native.passes import Emitter, emit_passes
from optc.compiler.layout import WIDTH
from optc.compiler.picking import looked_up
from optc.compiler.plan import Kernel, Stream
from optc.compiler.storing import coded_streams
from optc.dsl.program import Role, Symbol
from optc.dsl.source import Source

_PRELUDE = """load store where fma square cube fourth sqrt abs floor sign min max mod half_power exp log sin cos cospi tanh
pow atan2 round_bf16 Power Exponent kind_of kind
Exponential Parted Turned LN2 REST_OF_LN2
bits_of float_of infinity not_a_number is_double first_chunk select_update update optc optc_run optc_key fp32 fp64 bf16 fp16
param_t grad_t state_t input_t math_t Chunk Update CHUNK_COST chunk scalars flags factor gradient_factor i
split24 split32 kahan master joined split_into Split
int32_t int64_t uint8_t uint16_t uint32_t uint64_t philox Draw Drawn Dither uniform piece piece_end PIECE"""
PRELUDE_NAMES = frozenset(_PRELUDE.split())
"""What the text means something else by; a spec's name among these gets a `_`."""

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)


def emit_kernel(kernel: Kernel, source: Source) -> str:
    """The C++ text of one kernel of a plan; `source` is the spec that its line numbers refer to."""
    kernel = looked_up(kernel)
    title = textwrap.wrap(f"Kernel `{kernel.name}`: {_streams_in_words(kernel.streams)}.", WIDTH - len("// "))
    if kernel.passes:
        template = _ENVIRONMENT.get_template("passes.cpp.j2")
        kind = MatrixEmitter if knows_matrices(kernel) else Emitter
        return template.render(title=title, **emit_passes(kernel, source, PRELUDE_NAMES, kind))
    names = Names(PRELUDE_NAMES | (CODES_NAMES | books_taken(kernel) if coded_streams(kernel) else set()))
    for flag in (*kernel.static_flags, *kernel.host_flags):
        names.flag(flag)
    for scalar in kernel.scalars:
        names(Symbol(Role.SCALAR, scalar))
    for stream in kernel.streams:
        names(Symbol(stream.role, stream.name))
    for stream in kernel.streams:
        names.beside(stream.name, "at")
        if stream.coded is not None:
            names.beside(stream.name, "kept")
    lines = Lines(names, source)
    codes = Codes(kernel, kernel.streams, kernel.body, names, lines)
    drawn = Drawn.of(kernel, kernel.body, names, lines)
    body = drawn.found()
    streams = Streams(names, lines, dict(enumerate(kernel.streams)), body)
    instances = Instances.of(kernel.body, kernel.host_flags)
    constants = flag_constants(kernel, names, kernel.host_flags[len(instances.flags) :])
    constants += scalar_constants(kernel, names, kernel.scalars, exponents=instances.exponents)
    if any(s.role is Role.GRADIENT for s in kernel.streams):
        constants.append("const math_t gradient_factor = math_t(factor);")
    draws = draws_before(kernel, kernel.body)
    return _ENVIRONMENT.get_template("kernel.cpp.j2").render(
        title=title,
        variant=[*static_flags(kernel, names), *book_structs(kernel), *piece_constant(kernel, names, lines, draws)],
        opened=[*codes.opened(), *drawn.opened("piece", "piece_end - piece")],
        closed=codes.closed(),
        template=instances.template(names),
        constants=constants,
        pointers=[*streams.pointers(), *codes.declared(), *drawn.declared()],
        loads=[*streams.loads(), *drawn.loads("i - piece")],
        body=lines.block(body),
        stores=streams.stores(),
        selection=instances.selection(kernel, "update", "Update") if instances else ["return update;"],
    )


def _streams_in_words(streams: Iterable[Stream]) -> str:
    words = []
    for s in streams:
        words.append(f"{s.name} ({' and '.join(w for w, on in (('read', s.reads), ('written', s.writes)) if on)})")
    return ", ".join(words)
