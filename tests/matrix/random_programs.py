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

    # --- lines ----------------------------------------------------------------------------------------------------------------

    def block(self, indent: str, budget: int, depth: int) -> None:
        for _ in range(budget):
            kind = self.pick(["local", "local", "state", "state", "host", "carried", "branch", "rebind"])
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
            elif kind == "branch" and depth < 2:
                self.lines.append(f"{indent}if {self.condition()}:")
                self.block(indent + "    ", 2, depth + 1)
                if self.draw(st.booleans()):
                    self.lines.append(f"{indent}else:")
                    self.block(indent + "    ", 2, depth + 1)
            else:
                self.lines.append(f"{indent}{self.pick(self.states)} <- tanh({self.element(2)})")


@st.composite
def specs(draw: st.DrawFn) -> str:
    """The text of a random optimizer called `Random`, with hypers lr, h1, h2 and perhaps flag."""
    writer = _Writer(draw, states=["a", "b"], carried=draw(st.booleans()), flag=draw(st.booleans()))
    initial = {"a": draw(st.sampled_from(["0", "0.5", "h1"])), "b": draw(st.sampled_from(["0", "θ", "g", "g² + h2"]))}
    if draw(st.booleans()):
        writer.lines.append(f"        g = g + {writer.host(1)}*θ/(1 + h2)")
    if draw(st.booleans()):
        writer.lines.append("        if t == 2:\n            a <- g\n            stop")
    if draw(st.booleans()):
        writer.lines.append("        if new(b): b <- 0.25*g")
    writer.block("        ", draw(st.integers(2, 6)), 0)
    # every name is read, so that no line is dead
    sums = " + ".join(f"0.1*{n}" for n in [*writer.locals, *writer.states])
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
            "    step:",
            *writer.lines,
            "",
        ]
    )
