"""Random valid specs, drawn from the language by hypothesis: well conditioned, so that backends can be held to the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

HOST_LEAVES = ("h1", "h2", "t", "0.5", "2", "1.25")
COMPARISONS = ("<", "<=", ">", ">=")


@dataclass
class _Writer:
    draw: st.DrawFn
    states: list[str] = field(default_factory=list)
    carried: bool = False
    flag: bool = False
    locals: list[str] = field(default_factory=list)
    host_locals: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    reducing: bool = False
    numbers: list[str] = field(default_factory=list)  # of one number per tensor

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

    # --- element values -------------------------------------------------------------------------------------------------------

    def element(self, depth: int) -> str:
        leaves = ["g", "θ", *self.states, *self.locals]
        if depth == 0:
            return self.pick(leaves)
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
                f"where({self.condition()}, {x}, {y})",
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
            ]
        )

    # --- one number per tensor ------------------------------------------------------------------------------------------------

    def number(self, depth: int) -> str:
        if self.numbers and (depth <= 0 or self.draw(st.booleans())):
            return self.pick(self.numbers)
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

    # --- lines ----------------------------------------------------------------------------------------------------------------

    def block(self, indent: str, budget: int, depth: int) -> None:
        for _ in range(budget):
            kinds = ["local", "local", "state", "state", "host", "carried", "branch", "rebind"]
            kind = self.pick([*kinds, "number", "number", "measured", "measured branch"] if self.reducing else kinds)
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
                self.lines.append(f"{indent}if {condition}:")
                self.block(indent + "    ", 2, depth + 1)
                if self.draw(st.booleans()):
                    self.lines.append(f"{indent}else:")
                    self.block(indent + "    ", 2, depth + 1)
            else:
                self.lines.append(f"{indent}{self.pick(self.states)} <- tanh({self.element(2)})")


@st.composite
def specs(draw: st.DrawFn, reducing: bool = False) -> str:
    """The text of a random optimizer `Random`, with hypers lr, h1, h2 and perhaps flag; `reducing`: it measures tensors."""
    writer = _Writer(draw, states=["a", "b"], carried=draw(st.booleans()), flag=draw(st.booleans()), reducing=reducing)
    writer.numbers = ["s"] if reducing else []
    initial = {"a": draw(st.sampled_from(["0", "0.5", "h1"])), "b": draw(st.sampled_from(["0", "θ", "g", "g² + h2"]))}
    if draw(st.booleans()):
        writer.lines.append(f"        g = g + {writer.host(1)}*θ/(1 + h2)")
    if draw(st.booleans()):
        writer.lines.append("        if t == 2:\n            a <- g\n            stop")
    if draw(st.booleans()):
        writer.lines.append("        if new(b): b <- 0.25*g")
    if reducing:
        writer.lines.append("        s <- 0.5*s + 0.1*tanh(mean(g))")
        if draw(st.booleans()):
            writer.lines.append("        if max(abs(g)) > 2:\n            a <- 0.5*a\n            stop")
    writer.block("        ", draw(st.integers(2, 6)), 0)
    # every name is read, so that no line is dead
    sums = " + ".join(f"0.1*{n}" for n in [*writer.locals, *writer.states])
    sums += "".join(f" + 0.01*tanh({n})" for n in writer.numbers)
    hosts = "".join(f" + 0.01*{c}/(1 + {c})" for c in [*writer.host_locals, *(["k"] if writer.carried else [])])
    flag = " + where(flag, 0.1, 0)" if writer.flag else ""
    writer.lines.append(f"        u = {writer.element(1)} + {sums}{hosts}{flag} + h1*h2*g")
    writer.lines.append("        θ <- (1 - lr*h2)*θ - lr*clamp(u, -2, 2)")
    return "\n".join(
        [
            "optimizer Random:",
            "    hyper:",
            "        lr = 0.1 in [0, inf)",
            "        h1 = 0.9 in [0, 1)",
            "        h2 = 0.5 in [0, inf)",
            *(["        flag = false"] if writer.flag else []),
            "    state:",
            *(f"        {name} = {value}" for name, value in initial.items()),
            *(["        k = h1 per tensor"] if writer.carried else []),
            *(["        s = h2 per tensor"] if reducing else []),
            "    step:",
            *writer.lines,
            "",
        ]
    )
