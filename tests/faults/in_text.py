"""Seeded faults in what emitters write: a pattern in the text of a module, and what a wrong emitter would have written there.

Patterns are those of lines as they stand in `generated/`; each match is a fault of its own. `DOWN` in a replacement is the
number that was matched, less one: the scalar, statistic, slot or stream beside the one that is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern, and what stands in the place of a match."""

    pattern: str
    replacement: str

    def changes(self, text: str) -> Iterator[tuple[int, str]]:
        """Where the text is changed, and the text with that one change."""
        for match in re.finditer(self.pattern, text, re.MULTILINE):
            template = self.replacement
            if DOWN in template:
                number = int(match.group("n"))
                if number == 0:
                    continue
                template = template.replace(DOWN, str(number - 1))
            changed = match.expand(template)
            if changed != match.group():
                yield match.start(), text[: match.start()] + changed + text[match.end() :]


def _signs(comment: str) -> dict[str, Rule]:
    """A sum for a difference and the reverse, in a line of the spec: one that `comment` and its number close."""
    return {
        "minus for plus": Rule(rf"(?<=[\w)]) \+ (?=[\w(].*{comment})", " - "),
        "plus for minus": Rule(rf"(?<=[\w)]) - (?=[\w(].*{comment})", " + "),
    }


_SWAPPED_VALUES = Rule(r"^(\s+)\((\w+), (\w+)(, .*|,?)\),  # (exports|carried)$", r"\1(\3, \2\4),  # \5")

KINDS: dict[str, dict[str, Rule]] = {
    "host": {
        **_signs("#"),
        "lost power of t": Rule(r"ieee\.pow\((\w+), t\)", r"\1"),
        "lost sqrt": Rule(r"ieee\.sqrt\(", "("),
        "step behind": Rule(r"ieee\.pow\((\w+), t\)", r"ieee.pow(\1, t - 1.0)"),
        "lost correction": Rule(r"ieee\.div\(1\.0, 1\.0 - ieee\.pow\(\w+, t\)\)", "1.0"),
        "inverted condition": Rule(r"    if (?!not )(\w+):", r"    if not \1:"),
        "wrong order of scalars": Rule(r"(?<=\(  # scalars\n)(\s+\w+,)(\s+\w+,)", r"\2\1"),
    },
    "model": {
        **_signs("#"),
        "lost sqrt": Rule(r"\.sqrt\(\)", ""),
        "max for min": Rule(r"torch\.minimum", "torch.maximum"),
        "where() swapped": Rule(r"torch\.where\((\w+), (\w+), (\w+)\)", r"torch.where(\1, \3, \2)"),
        "numbers swapped": _SWAPPED_VALUES,
        "total of the other part": Rule(r'\("(tot\w+)", "(\w+)"\), \("(tot\w+)", "(\w+)"\)', r'("\1", "\4"), ("\3", "\2")'),
        "state as it was": Rule(r"^    (\w) = (\1 .*)$", r"    new_\1 = \2"),
        "what is left in another order": Rule(r'leaves=\("(\w+)", "(\w+)"', r'leaves=("\2", "\1"'),
    },
    "torch": {
        "lost in-place": Rule(r"(\w+)\.mul_\((\w+)\)\.add", r"\1.mul(\2).add"),
        "mul for add": Rule(r"\.add_\(", ".mul_("),
        "lost alpha": Rule(r", alpha=\w+\)", ")"),
        "lost value": Rule(r", value=-?\w+\)", ")"),
        "sub for add": Rule(r"\.sub_\(", ".add_("),
        "lost sqrt": Rule(r"\.sqrt_?\(\)", ""),
        "lost square": Rule(r"addcmul_\((\w+), \1", r"addcmul_(\1, torch.ones_like(\1)"),
        "div for mul": Rule(r"\.div_?\(", ".mul("),
        "min for max": Rule(r"torch\.maximum", "torch.minimum"),
        "lost sign": Rule(r"= sign\((\w+)\)", r"= \1"),
        "other scalar": Rule(r"\bbeta1\b(?=\))", "one_minus_beta1"),
        "inverted flag": Rule(r"    if (?!not )(\w+):", r"    if not \1:"),
        "lost store": Rule(r"^(\s+)(\w+)\.(?:mul_|copy_|add_|addcmul_|sub_)\(.*  # \d+$", r"\1pass"),
        "in place for a new tensor": Rule(r"\b(g|theta|[a-z]_\w+|u|q|c)\.(square|sqrt|abs|neg|exp)\(\)", r"\1.\2_()"),
        "mean for sum": Rule(r"\btotal\(", "mean("),
        "sum for mean": Rule(r"\bmean\(", "total("),
        "norm of another tensor": Rule(r"\bnorm\((?!theta)\w+\)", "norm(theta)"),
        "norm of another order": Rule(r"\bnorm\((\w+), 1\)", r"norm(\1)"),
        "smallest for largest": Rule(r"\blargest(_magnitude)?\(", "smallest("),
        "columns for rows": Rule(r"dim=-1\)", "dim=-2)"),
        "rows for columns": Rule(r"dim=-2\)", "dim=-1)"),
        "other bound": Rule(r"\.clamp_min\(", ".clamp_max("),
        "lost bound": Rule(r"\.clamp_m\w+\([\w.]+\)", ""),
        "where() swapped": Rule(r"torch\.where\((.+?), ([\w/]+), ([\w.]+)\)", r"torch.where(\1, \3, \2)"),
        "or for and": Rule(r"\) & \(", ") | ("),
        "lost number of elements": Rule(r"/theta\.numel\(\)(?:\*\*0\.5)?", ""),
        "wrong order of what is left": Rule(r"return \((\w+), (\w+)", r"return (\2, \1"),
    },
    "native": {
        **_signs("//"),
        "minus for plus of a product": Rule(r"\bfma\((?=[\w(].*//)", "fma(-"),
        "plus for minus of a product": Rule(r"\bfma\(-(?=.*//)", "fma("),
        "factor and summand swapped": Rule(r"\bfma\((-?\w+), (\w+), (\w+)\)(?=.*//)", r"fma(\1, \3, \2)"),
        "lost sqrt": Rule(r"\bsqrt\((?=.*//)", "("),
        "lost square": Rule(r"\bsquare\((?=.*//)", "("),
        "min for max": Rule(r"= max\(", "= min("),
        "div for mul": Rule(r"(?<=\w)\*(?=\w+;  //)", "/"),
        "lost sign": Rule(r"= sign\(", "= ("),
        "lost store": Rule(r"^(\s+)(?:if \(.*\) )?store\(\w+_at\[.*$", r"\1;"),
        "wrong stream": Rule(r"row<state_t>\((?P<n>\d+)\)", f"row<state_t>({DOWN})"),
        "wrong scalar": Rule(r"scalars\[(?P<n>\d+)\]", f"scalars[{DOWN}]"),
        "inverted flag": Rule(r"        if \((?!!)(\w+)\) \{", r"        if (!\1) {"),
        "partial lost": Rule(r"^    partials\[\d+\] = .*$", "    ;"),
        "terms lost": Rule(r"^(\s+)(?:if \(.*\) )?\w+\.add\(\w+_terms, .*$", r"\1;"),
        "measure in the wrong slot": Rule(r"^    partials\[(?P<n>\d+)\] = ", f"    partials[{DOWN}] = "),
        "wrong measure read": Rule(r"tensor\.(sum|mean|largest|smallest)\((?P<n>\d+)\)", rf"tensor.\1({DOWN})"),
        "mean for sum": Rule(r"tensor\.sum\(", "tensor.mean("),
        "sum for mean": Rule(r"tensor\.mean\(", "tensor.sum("),
        "smallest for largest": Rule(r"<Larger\b", "<Smaller"),
        "other reduction": Rule(r"^    Largest ", "    Smallest "),
        "statistic in the wrong place": Rule(r"^    statistics\[(?P<n>\d+)\] = ", f"    statistics[{DOWN}] = "),
        "statistic lost": Rule(r"^    statistics\[(?P<n>\d+)\] = .*$", "    ;"),
        "wrong statistic read": Rule(r"= (math_t\()?statistics\[(?P<n>\d+)\]", rf"= \1statistics[{DOWN}]"),
        "wrong vector": Rule(r"tensor\.matrices\.vector\((?P<n>\d+)\)", f"tensor.matrices.vector({DOWN})"),
        "wrong values in a pass": Rule(r"_values\(chunk, (?P<n>\d+)\)", f"_values(chunk, {DOWN})"),
        "columns for rows": Rule(r"\bRows<by_rows, \w+> ", "Columns<by_rows> "),
        "row index": Rule(r"\[row\](?=.*//)", "[0]"),
        "column index": Rule(r"\[column\](?=.*//)", "[0]"),
        "first matrix for all": Rule(r" \+ matrix\*(height|width),", ","),
        "rows of one matrix": Rule(r"\(matrix \+ 1\)\*", "1*"),
        "lost mean of rows": Rule(r"(of_rows|of_columns)<Add>\((\d+), (\d+), true\)", r"\1<Add>(\2, \3, false)"),
        "lost length": Rule(r"/double\((height|width)\)", ""),
        "factor of the gradient lost": Rule(r"\*gradient_factor;", ";"),
        "factor of the gradient twice": Rule(r"\*gradient_factor;", "*gradient_factor*gradient_factor;"),
        "pass left out": Rule(r"^(\s+)(?:if \(.*\) )?share\.run\(pass_\d+\);$", r"\1;"),
        "stage left out": Rule(r"^(\s+)(?:if \(.*\) )?share\.run\(per_tensor::stage_\d+\);$", r"\1;"),
        "where() swapped": Rule(r"where\(([^()]+), ([\w./*]+), ([\w./*]+)\)", r"where(\1, \3, \2)"),
    },
    "triton": {
        **_signs("#"),
        "lost sqrt": Rule(r"\bgpu\.sqrt\((?=.*#)", "("),
        "lost square": Rule(r"\bgpu\.square\((?=.*#)", "("),
        "lost store": Rule(r"^(\s+)tl\.store\(\w+_at(?: \+ at)?, .*$", r"\1pass"),
        "lost mask": Rule(r"tl\.store\(theta_at, theta, mask\)", "tl.store(theta_at, theta * 1.001, mask)"),
        "wrong scalar": Rule(r", scalars, (?P<n>\d+), ", f", scalars, {DOWN}, "),
        "wrong scalar of a stage": Rule(r"tl\.load\(scalars \+ (?P<n>\d+)\)", f"tl.load(scalars + {DOWN})"),
        "partial lost": Rule(r"^(\s+)tl\.store\(place \+ .*$", r"\1pass"),
        "terms lost": Rule(r"^(\s+)(\w+) = gpu\.\w+_with\(\2, .*  # \d+$", r"\1pass"),
        "measure in the wrong slot": Rule(r"place \+ (?P<n>\d+) \* partials_each", f"place + {DOWN} * partials_each"),
        "wrong measure read": Rule(r"(?<=load\()partials \+ (?P<n>\d+) \* partials_each", f"partials + {DOWN} * partials_each"),
        "tail without a mask": Rule(r"(gpu\.\w+_with\(\w+, .*), mask\)(?=  # \d+$)", r"\1, None)"),
        "smallest for largest": Rule(r"gpu\.largest_(with|of|in_row)", r"gpu.smallest_\1"),
        "largest for smallest": Rule(r"gpu\.smallest_(with|of|in_row)", r"gpu.largest_\1"),
        "sum for largest": Rule(r"gpu\.largest_(of|in_row)", r"gpu.sum_\1"),
        "neutral element of another": Rule(r"(tl\.full\(.*), -?float\(\"inf\"\), (real|tl\.float64)\)", r"\1, 0.0, \2)"),
        "neutral element 1": Rule(r"^(    sum_\w+ = tl\.full\(\((?:BLOCK|LANES),\)), 0\.0,", r"\1, 1.0,"),
        "statistic in the wrong place": Rule(r"tl\.store\(row \+ (?P<n>\d+)", f"tl.store(row + {DOWN}"),
        "statistic lost": Rule(r"^(\s+)tl\.store\(row \+ (?P<n>\d+).*$", r"\1pass"),
        "wrong statistic read": Rule(r"tl\.load\(row \+ (?P<n>\d+)\)", f"tl.load(row + {DOWN})"),
        "wrong vector": Rule(
            r"((?:row|col)_values \+ .* \+) (?P<n>\d+) \* \((matrices \* \w+)\)", rf"\1 {DOWN} * (\3)"
        ),
        "width for height": Rule(r"^(    mask = at < matrices \*) height$", r"\1 width"),
        "height for width": Rule(r"gpu\.div\((.*), height\.to", r"gpu.div(\1, width.to"),
        "columns for rows": Rule(r"(?<= // )width\b", "height"),
        "lost length": Rule(r"= gpu\.div\((gpu\.sum_of\(\w+\)), \w+\.to\(tl\.float64\)\)", r"= \1"),
        "partials of rows for columns": Rule(r"\bcol_partials \+", "row_partials +"),
        "first panel for all": Rule(r"^    heading = .*? \+ ", "    heading = "),
        "factor of the gradient lost": Rule(r"(\.to\(real\)) \* factor$", r"\1"),
        "factor of the gradient twice": Rule(r"(\.to\(real\)) \* factor$", r"\1 * factor * factor"),
        "where() swapped": Rule(r"tl\.where\(([^()]+|\(.*\) & \(.*\)), ([\w.]+), ([\w.]+)\)  #", r"tl.where(\1, \3, \2)  #"),
        "div upside down": Rule(r"gpu\.div\((\w+), (\w+)\)", r"gpu.div(\2, \1)"),
    },
    "scalars": {
        **_signs("#"),
        "lost sqrt": Rule(r"\bgpu\.sqrt\((?=.*#)", "("),
        "lost power of t": Rule(r"gpu\.pow\((\w+), t\)", r"\1"),
        "step behind": Rule(r"gpu\.pow\((\w+), t\)", r"gpu.pow(\1, t - 1.0)"),
        "step ahead": Rule(r"\.to\(tl\.float64\) \+ 1\.0$", ".to(tl.float64) + 2.0"),
        "step not counted": Rule(r"^    tl\.store\(counters .*$", "    pass"),
        "scalar in the wrong place": Rule(r"tl\.store\(row \+ (?P<n>\d+)", f"tl.store(row + {DOWN}"),
        "scalar lost": Rule(r"^    tl\.store\(row \+ .*$", "    pass"),
        "row of another length": Rule(r"(scalars \+ \d+ \* n \+) (?P<n>\d+) \* lane", rf"\1 {DOWN} * lane"),
        "other hyper": Rule(r"hypers \+ at_beta1\b", "hypers + at_lr"),
        "inverted flag": Rule(r"^    if (?!not )(?!HAS)(\w+):", r"    if not \1:"),
        "div upside down": Rule(r"gpu\.div\((\w+), (\w+)\)", r"gpu.div(\2, \1)"),
        "number not carried": Rule(r"^    tl\.store\(carried .*$", "    pass"),
    },
}  # fmt: skip
"""For every emitter its kinds of faults, by name."""

TITLES = {
    "host": ("on the host, once per step, in float64",),
    "model": ("once for the whole model, in float64", "the optimizer"),
    "torch": ("PyTorch",),
    "native": ("native",),
    "triton": ("Triton",),
    "scalars": ("Triton",),
}
"""What closes the titles of the sections that an emitter has written; the schema belongs to the model's programs."""


_SCALARS = re.compile(r"^@triton_kernel\ndef \w+_scalars_triton\(", re.MULTILINE)
"""Where the program begins that computes the host's scalars on the device; it is the last one of its section."""


def sections(text: str, emitter: str) -> Iterator[tuple[int, int]]:
    """Where the sections of an emitter begin and end in the text of a module."""
    places = [match.start() for match in re.finditer(r"^# --- .* -+$", text, re.MULTILINE)]
    for start, end in zip(places, [*places[1:], len(text)], strict=True):
        title = text[start : text.index("\n", start)].strip("# -")
        if title.split(": ")[-1] not in TITLES[emitter]:
            continue
        scalars = _SCALARS.search(text, start, end)
        middle = end if scalars is None else scalars.start()
        if emitter == "scalars":
            yield from [(middle, end)] if middle < end else []
        else:
            yield start, middle


def changed(text: str, emitter: str) -> Iterator[tuple[str, int, str]]:
    """The kind, the line and the text of every fault that fits what an emitter has written into a module.

    Statistics that nothing reads are left out: it does not matter what becomes of them.
    """
    for start, end in sections(text, emitter):
        for kind, rule in KINDS[emitter].items():
            for place, section in rule.changes(text[start:end]):
                line = text.count("\n", 0, start + place) + 1
                if not kind.startswith("statistic") or _is_read(text, text.splitlines()[line - 1]):
                    yield kind, line, text[:start] + section + text[end:]


def _is_read(text: str, store: str) -> bool:
    """Whether the statistic that a line leaves is read by a later kernel, or is a part of a total."""
    native = re.match(r"\s+statistics\[(\d+)\] = (\w+);", store)
    if native is not None:
        slot, name = native.groups()
        read = re.search(rf"= (math_t\()?statistics\[{slot}\]", text) is not None
    else:
        slot, name = re.findall(r"\(row \+ (\d+), (\w+)", store)[0]
        read = f"tl.load(row + {slot})" in text
    return read or any(f'"{name}"' in parts for parts in re.findall(r"parts=\((.*?)\)", text, re.DOTALL))
