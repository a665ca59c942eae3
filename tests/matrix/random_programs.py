"""Random valid specs, drawn from the language by hypothesis: well conditioned, so that backends can be held to the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.matrix import random_picks, random_rows

HOST_LEAVES = ("h1", "h2", "t", "0.5", "2", "1.25")
COMPARISONS = ("<", "<=", ">", ">=")


@dataclass
class Writer:
    """A spec in the making: what its lines may read, and the lines."""

    draw: st.DrawFn
    states: list[str] = field(default_factory=list)
    carried: bool = False
    flag: bool = False
    locals: list[str] = field(default_factory=list)
    host_locals: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    reducing: bool = False
    random: bool = False
    numbers: list[str] = field(default_factory=list)  # of one number per tensor
    model: bool = False
    shared: list[str] = field(default_factory=list)  # of one number of the model
    narrow: bool = False  # not all parameters of the model come here
    rows: bool = False
    matrix: bool = False  # only tensors with rows and columns come here
    vectors: dict[str, list[str]] = field(default_factory=lambda: {"row": [], "col": [], "matrix": []})
    picking: bool = False
    chosen: list[str] = field(default_factory=list)  # names of values of picked elements

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        return self.draw(st.sampled_from(options))

    # --- host values: positive and moderate -----------------------------------------------------------------------------------

    def host(self, depth: int) -> str:
        leaves = [*HOST_LEAVES, *self.host_locals, *(["k"] if self.carried else [])]
        if depth == 0:
            return self.pick(leaves)
        x = self.host(depth - 1)
        y = self.host(depth - 1)
        return self.pick(
            [
                f"({x} + {y})",
                f"{x}*{y}/(1 + {y})",
                f"{x}/(1 + {y})",
                f"sqrt({x})",
                f"(1 - h1^t)*{x}",
                f"max({x}, {y})",
                f"min({x}, 3)",
                f"(1 + abs({x} - {y}))",
                f"where({x} > {y}, {x}, 1 + {y})",
                f"exp(-{x})",
                f"ln(2 + {x})",
                f"(1 + t mod 3)*{x}",
            ]
        )

    def condition(self) -> str:
        if self.flag and self.draw(st.booleans()):
            return self.pick(["flag", "not flag", "h2 != 0", "flag and t > 2"])
        compared = f"{self.host(1)} {self.pick(COMPARISONS)} {self.host(1)}"
        return self.pick(["t == 1", "t mod 2 == 0", compared, "t > 2 or h1 < 0.5"])

    def unless_waiting(self, *values: str) -> str:
        """A condition for `where`: no static one on values that wait for all parameters."""
        condition = self.condition()
        waits = any("total" in v for v in values)
        return "t mod 2 == 0" if waits and condition in ("flag", "not flag", "h2 != 0") else condition

    # --- element values -------------------------------------------------------------------------------------------------------

    def element(self, depth: int) -> str:
        leaves = ["g", "θ", *self.states, *self.locals, *([] if self.matrix else [f"(θ + {y})" for y in self.mixed()])]
        if depth == 0:
            return self.pick(leaves)
        if self.model and self.draw(st.integers(0, 4)) == 0:
            x, w = self.element(depth - 1), self.whole(depth - 1)
            return self.pick([f"{x}*tanh({w})", f"{x}/(1 + abs({w}))", f"where({w} > {self.host(0)}, {x}, tanh({w}))"])
        if self.matrix and self.draw(st.integers(0, 2)) == 0:
            x, v, w = self.element(depth - 1), self.vector(depth - 1), self.vector(depth - 1)
            return self.pick([f"{x}*tanh({v})", f"{x}/(1 + abs({v}))", f"({x} - tanh({v})*{w})", f"where({v} > {w}, {x}, {v})"])
        x = self.element(depth - 1)
        y = self.element(depth - 1)
        h = self.host(self.draw(st.integers(0, 1)))
        if self.reducing and self.draw(st.integers(0, 3)) == 0:
            n = self.number(depth - 1)
            return self.pick(
                [
                    f"{x}*tanh({n})",
                    f"{x}/(1 + abs({n}))",
                    f"{h}*{x}*{n}/(1 + abs({n}))",
                    f"where({n} > {h}, {x}, {y})",
                    f"where({n} > 0 and {x} < 1, {x}, tanh({n}))",
                    f"clamp({x}, -abs({n}), 1 + abs({n}))",
                    f"({x} - tanh({n}))",
                ]
            )
        return self.pick(
            [
                f"({x} + {y})",
                f"({x} - {y})",
                f"tanh({x})*{h}",
                f"tanh({x})*{y}",
                f"{x}*{h}/(1 + {h})",
                f"{x}/(1 + abs({y}))",
                f"{x}/(2 + {h})",
                f"1/(1 + abs({x}))",
                f"sqrt(0.1 + abs({x}))",
                f"(√({x}² + 0.01))",
                f"max({x}, {y})",
                f"min({x}, {h})",
                f"clamp({x}, -{h}, {h})",
                f"|{x}|",
                f"sign({x})*{h}",
                f"-({x})",
                f"where({x} {self.pick(COMPARISONS)} {h}, {y}, {x})",
                f"where({x} > 0 and {y} < 1, {y}, 0.5)",
                f"where({self.unless_waiting(x, y)}, {x}, {y})",
                f"exp(min({x}, 1))",
                f"ln(1 + {x}²)",
                f"atan2({x}, 0.5 + abs({y}))",
                f"(0.5 + abs({x}))^0.75",
                f"sin({x}) + cos({y})",
                f"ema({x}, {y}, h1)",
                f"lerp({x}, {y}, 0.3)",
                f"debias({x}, h1)",
                f"tanh({x})^3",
                f"floor(4*tanh({x}) + 0.123)",
                f"cospi({x})",
                *([f"{x}*uniform(seed)", f"({x} + {h}*normal(seed))", f"where(uniform(seed) < 0.5, {x}, {y})"] * self.random),
            ]
        )

    # --- one number per tensor ------------------------------------------------------------------------------------------------

    def number(self, depth: int) -> str:
        if self.numbers and (depth <= 0 or self.draw(st.booleans())):
            return self.pick(self.numbers)
        if self.model and self.draw(st.integers(0, 4)) == 0:
            return self.pick(
                [f"tanh({self.whole(depth - 1)})*{self.pick(self.numbers)}", f"({self.whole(depth - 1)} + h1*{self.host(0)})"]
            )
        if self.matrix and self.draw(st.integers(0, 2)) == 0:
            v = self.vector(depth - 1)
            return self.pick([f"mean({v})", f"sum({v})/numel", f"max(abs({v}))", f"min({v})", f"norm({v})/(1 + numel)"])
        x, y = self.element(max(depth - 1, 0)), self.element(0)
        h = self.host(self.draw(st.integers(0, 1)))
        return self.pick(
            [
                f"norm({x})",
                f"rms({x})",
                f"mean({x})",
                f"sum({x})/numel",
                f"norm1({x})/(1 + {h})",
                f"dot({x}, {y})/numel",
                f"count({x} > {h})/(1 + numel)",
                f"max(abs({x}))",
                f"min({x})",
                f"where(any({x} > {h}), {h}, mean({y}))",
                f"norm({x})/(0.1 + norm({y}))",
                f"{h}*tanh(sum({x}))",
            ]
        )

    # --- one number of the model ----------------------------------------------------------------------------------------------

    def whole(self, depth: int) -> str:
        leaves = ["h3", "loss", *self.shared]
        if depth <= 0 or (self.narrow and self.draw(st.booleans())):
            return self.pick(leaves)
        x, y = self.whole(depth - 1), self.whole(0)
        plain = [f"({x} + {y})", f"{x}/(1 + abs({y}))", f"max({x}, {y})", f"where({x} > {y}, {x}, 0.5*{y})"]
        plain += [f"where(shared_flag, {x}, {y})", f"tanh({x})*h3"]
        if self.narrow or self.draw(st.booleans()):
            return self.pick(plain)
        n = self.number(depth - 1)
        return self.pick(
            [
                f"tanh(total({n}))",
                f"total({n})/(1 + total(numel))",
                f"total_norm({self.element(1)})/(1 + total_norm({self.element(0)}))",
                f"total(where({n} > {self.host(0)}, 1, 0))/(1 + total(1 + 0*t))",
                f"tanh(total({x}*{n} + {self.host(1)}))",
                f"{y}*tanh(total(h1*{self.host(1)}))",
            ]
        )

    def whole_condition(self) -> str:
        compared = f"{self.whole(1)} {self.pick(COMPARISONS)} {self.whole(1)}"
        return self.pick(["shared_flag", "not shared_flag", "h3 > 0.4", compared, compared])

    # --- values per row, column and matrix ------------------------------------------------------------------------------------

    def mixed(self) -> list[str]:
        """Names that have rows or columns for matrices, and one number for other tensors."""
        return [n for names in self.vectors.values() for n in names if n.startswith("y")]

    def vector(self, depth: int, extent: str = "") -> str:
        extent = extent or self.pick(["row", "col", "matrix"])
        if depth <= 0:
            return self.pick(self.vectors[extent])
        x, n, v = self.element(depth - 1), self.number(0), self.vector(depth - 1, extent)
        options = [f"tanh({v})*{n}/(1 + abs({n}))", f"where({v} > {n}, {n}, {v})", f"({v} + {self.pick(self.vectors[extent])})"]
        if extent == "matrix":
            row, col = self.vector(depth - 1, "row"), self.vector(depth - 1, "col")
            options += [f"colmean({row})", f"rowmax({col})", f"tanh(colsum({row}))", f"rowmean(colmin({x}))"]
            return self.pick([*options, f"max({v}, rowmean({col}))"])
        m = self.vector(depth - 1, "matrix")
        along = extent
        options += [f"{along}mean({x})", f"tanh({along}sum({x}))", f"{along}max(abs({x}))", f"{along}min({x})"]
        options += [f"{along}mean({x}²)"]
        return self.pick([*options, f"{v}/(1 + abs({m}))", f"ema({v}, {along}mean({x}), h1)"])

    # --- lines ----------------------------------------------------------------------------------------------------------------

    def special(self, kind: str, indent: str, depth: int) -> bool:
        """Writes a line of the model, or about rows and columns; False if it cannot stand here."""
        if kind == "matrices" and depth < 2:
            random_rows.matrices(self, indent, depth)
        elif self.narrow:
            changed = [n for n in self.shared if n.startswith("q")]
            if kind != "whole" or not changed:
                return False
            name = self.pick(changed)  # from here on it differs between parameters
            value = self.pick([f"tanh({name} + {self.number(0)})", f"tanh({self.whole(1)})"])
            self.lines.append(f"{indent}{name} = {value}")
            self.shared.remove(name)
            self.numbers.append(name)
        elif kind == "whole" and depth == 0:
            name = f"q{len(self.lines)}"
            self.lines.append(f"{indent}{name} = {self.whole(2)}")
            self.shared.append(name)
        elif kind == "whole" and (changed := [n for n in self.shared if n.startswith("q")]):
            self.lines.append(f"{indent}{self.pick(changed)} = {self.whole(1)}")
        elif kind == "whole state":
            self.lines.append(f"{indent}{self.pick(['w', 'z'])} <- tanh({self.whole(2)})")
        elif kind == "whole branch" and depth < 2:
            self.branch(self.whole_condition(), indent, depth)
        elif kind == "whole stop" and depth == 0 and self.draw(st.booleans()):
            self.lines.append(f"{indent}if {self.whole_condition()} and {self.whole(1)} > 1: stop")
        else:
            return False
        return True

    def branch(self, condition: str, indent: str, depth: int) -> None:
        self.lines.append(f"{indent}if {condition}:")
        self.block(indent + "    ", 2, depth + 1)
        if self.draw(st.booleans()):
            self.lines.append(f"{indent}else:")
            self.block(indent + "    ", 2, depth + 1)

    def block(self, indent: str, budget: int, depth: int) -> None:
        for _ in range(budget):
            kinds = ["local", "local", "state", "state", "host", "carried", "branch", "rebind"]
            kinds += ["number", "number", "measured", "measured branch"] if self.reducing else []
            kinds += ["whole", "whole state", "whole branch", "whole stop"] if self.model else []
            kinds += ["picked"] * 3 if self.picking else []
            kind = self.pick([*kinds, "matrices", "matrices"] if self.rows else kinds)
            if kind == "picked":
                random_picks.line(self, indent, depth)
                continue
            if self.special(kind, indent, depth):
                continue
            if kind == "local" and depth == 0:
                name = f"x{len(self.locals)}"
                self.lines.append(f"{indent}{name} = {self.element(2)}")
                self.locals.append(name)
            elif kind == "host" and depth == 0:
                name = f"c{len(self.host_locals)}"
                self.lines.append(f"{indent}{name} = {self.host(2)}")
                self.host_locals.append(name)
            elif kind == "carried" and self.carried:
                self.lines.append(f"{indent}k <- k/(1 + k) + {self.host(1)}/(1 + {self.host(1)})")
            elif kind == "rebind" and self.locals:
                self.lines.append(f"{indent}{self.pick(self.locals)} = tanh({self.element(1)})")
            elif kind == "number" and depth == 0:
                name = f"n{len(self.numbers)}"
                self.lines.append(f"{indent}{name} = {self.number(1)}")
                self.numbers.append(name)
            elif kind == "number" and len(self.numbers) > 1:
                self.lines.append(f"{indent}{self.pick(self.numbers[1:])} = tanh({self.number(1)})")
            elif kind == "measured":
                self.lines.append(f"{indent}s <- tanh({self.number(1)})")
            elif kind in ("branch", "measured branch") and depth < 2:
                condition = self.condition() if kind == "branch" else f"{self.number(0)} > {self.host(0)}"
                narrow, self.narrow = self.narrow, True
                self.branch(condition, indent, depth)
                self.narrow = narrow
            else:
                self.lines.append(f"{indent}{self.pick(self.states)} <- tanh({self.element(2)})")


@st.composite
def specs(draw: st.DrawFn, reducing: bool = False, model: bool = False, rows: bool = False, picking: bool = False) -> str:
    """The text of a random optimizer `Random`, with hypers lr, h1, h2 and perhaps flag.

    `reducing`: it measures tensors. `model`: it has numbers of the whole model as well, the loss perhaps, and hypers h3 and
    shared_flag; `rows`: values per row, column and matrix, too. `picking`: values of every p-th element, and the hyper p; not
    with `rows`.
    """
    reducing = reducing or model or rows
    writer = Writer(draw, states=["a", "b"], carried=draw(st.booleans()), flag=draw(st.booleans()), reducing=reducing)
    writer.numbers, writer.model, writer.rows = ["s"] if reducing else [], model, rows
    writer.picking, writer.chosen = picking, ["e"] if picking else []
    writer.shared = ["w", "z"] if model else []
    writer.random = draw(st.booleans())
    writer.vectors = {"row": ["R"], "col": ["C"], "matrix": ["M"]}
    initial = {"a": draw(st.sampled_from(["0", "0.5", "h1"])), "b": draw(st.sampled_from(["0", "θ", "g", "g² + h2"]))}
    chosen = draw(st.sampled_from(random_picks.INITIAL)) if picking else ""
    if draw(st.booleans()):
        writer.lines.append(f"        g = g + {writer.host(1)}*θ/(1 + h2)")
    if not model and draw(st.booleans()):
        writer.lines.append("        if t == 2:\n            a <- g\n            stop")
    if draw(st.booleans()):
        writer.lines.append("        if new(b): b <- 0.25*g")
    if reducing:
        writer.lines.append("        s <- 0.5*s + 0.1*tanh(mean(g))")
        if not model and draw(st.booleans()):
            writer.lines.append("        if max(abs(g)) > 2:\n            a <- 0.5*a\n            stop")
    writer.block("        ", draw(st.integers(2, 6)), 0)
    if model:
        writer.lines.append(f"        {draw(st.sampled_from(['w', 'z']))} <- tanh({writer.whole(2)})")
        if draw(st.booleans()):
            writer.lines.append(
                f"        if {draw(st.sampled_from(['t == 2', 'max(abs(g)) > 2', 'w > 2*s']))}: b <- tanh(w*g); stop"
            )
            writer.narrow = True
    if rows:
        random_rows.matrices(writer, "        ", 0)
        writer.lines.append("        if ndim >= 2: rest = 0.1*R + 0.1*C*M")
        writer.lines.append("        else: rest = 0.1*V")
    if picking:
        random_picks.last_lines(writer)
    # every name is read, so that no line is dead
    sums = " + ".join(f"0.1*{n}" for n in [*writer.locals, *writer.states, *writer.mixed(), *(["rest"] if rows else [])])
    sums += "".join(f" + 0.01*tanh({n})" for n in [*writer.numbers, *writer.shared, *(["h3"] if model else [])])
    hosts = "".join(f" + 0.01*{c}/(1 + {c})" for c in [*writer.host_locals, *(["k"] if writer.carried else [])])
    flag = " + where(flag, 0.1, 0)" if writer.flag else ""
    flag += " + where(shared_flag, 0.1, 0)" if model else ""
    flag += " + 0.1*uniform(seed)" if writer.random else ""
    writer.lines.append(f"        u = {writer.element(1)} + {sums}{hosts}{flag} + h1*h2*g")
    writer.lines.append("        θ <- (1 - lr*h2)*θ - lr*clamp(u, -2, 2)")
    return "\n".join(
        [
            "optimizer Random:",
            *(["    shape: matrix"] if rows and draw(st.booleans()) else []),
            "    hyper:",
            "        lr = 0.1 in [0, inf)",
            "        h1 = 0.9 in [0, 1)",
            "        h2 = 0.5 in [0, inf)",
            *(["        seed = 3 in int [0, inf)"] if writer.random else []),
            *(["        flag = false"] if writer.flag else []),
            *(["        p = 3 in int [1, inf)"] if picking else []),
            *(["        h3 = 0.6 shared in [0, 1)", "        shared_flag = true shared"] if model else []),
            "    state:",
            *(f"        {name} = {value}" for name, value in initial.items()),
            *(["        k = h1 per tensor"] if writer.carried else []),
            *(["        s = h2 per tensor"] if reducing else []),
            *([f"        e = {chosen} per pick(p)"] if picking else []),
            *(["        w = 0.5 per model", "        z = h3 per model"] if model else []),
            *(
                ["        if ndim >= 2: R = 0 per row; C = 0.5 per col; M = 1 per matrix", "        else: V = 0.5"]
                if rows
                else []
            ),
            "    step:",
            *writer.lines,
            "",
        ]
    )
