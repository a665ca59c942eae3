"""Composition as text: where lines go, what they are called, what is folded away, and how composed optimizers are used."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import optc
from optc.compiler.compose.cost import show_added_cost
from optc.compiler.compose.expand import expand, split_terms, with_modifiers
from optc.compiler.compose.fold import fixed
from optc.compiler.compose.insertion import ORDER
from optc.compiler.compose.library import named, shipped, shipped_modifiers
from optc.compiler.compose.stages import ALONE, Applied, compose
from optc.compiler.pipeline import plan_program
from optc.dsl import nodes
from optc.dsl.build_compositions import POINTS
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse, parse_file
from optc.dsl.show import format_text, show
from optc.dsl.source import Source

MODIFIERS = {name: named(path) for name, path in shipped_modifiers().items()}
ELEMENTWISE = (
    "accumulated", "ademamix", "atan2", "cautious_decay", "clip_value", "decoupled", "grams", "grokfast", "independent", "l2",
    "lookahead", "nesterov", "proximal", "weight_ema",
)  # fmt: skip


def step(composition: str, before: str = "") -> list[str]:
    """The lines of the composed step in ASCII, without the indentation that all have."""
    spec = expand(Source("<test>", f"{before}optimizer X = {composition}\n")).spec
    return [line[8:] for line in show(spec).split("    step:\n")[1].splitlines()]


def signature(composition: str) -> dict[str, object]:
    expanded = expand(Source("<test>", f"optimizer X = {composition}\n"))
    return {h.key: h.defaults if h.is_tuple else h.defaults[0] for h in check(expanded.spec, expanded.source).hypers}


# --- where lines go -----------------------------------------------------------------------------------------------------------


def test_each_stage_has_its_place() -> None:
    before = "".join(
        f"modifier at_{stage}:\n    {stage} {'u' if stage == 'mask' else points[0]}:\n        "
        f"{'u' if stage == 'mask' else points[0]} = {number}*{'u' if stage == 'mask' else points[0]}\n"
        for number, (stage, points) in enumerate(POINTS.items())
    )
    names = " + ".join(f"at_{stage}" for stage in reversed(ORDER) if stage != "schedule")
    assert step(f"ASGD + {names.replace('at_mix + ', '')}", before) == [
        "g = 0*g  # at_clip",
        "g = 1*g  # at_project",
        "g = 2*g  # at_couple",
        "if weight_decay != 0:",
        "    g = g + weight_decay*theta",
        "u = g",
        "u = 4*u  # at_mask",
        "u = 5*u  # at_trust",
        "theta_decayed = 6*theta  # at_decay",
        "theta_new = (1 - lambda*eta)*theta_decayed - eta*u",
        "theta_new = 7*theta_new  # at_constrain",
        "if mu == 1:",
        "    ax <- theta_new",
        "else:",
        "    ax <- ax + mu*(theta_new - ax)",
        "eta <- lr/(1 + lambda*lr*t)^alpha",
        "mu <- 1/max(1, t - t0)",
        "theta <- 8*theta_new  # at_average",
    ]


def test_a_point_bound_in_an_if_is_changed_behind_the_whole_if() -> None:
    lines = step("RAdam without weight_decay + clip_rms")
    place = lines.index("u = u/max(1, rms(u)/clip_rms_threshold)  # clip_rms")
    assert lines[place - 2 : place + 2] == ["else:", "    u = m_hat", lines[place], "theta <- theta - lr*u"]


def test_what_changes_no_theta_leaves_the_line_of_theta_alone() -> None:
    assert step("Lion + weight_ema")[-3:] == [
        "theta <- (1 - lr*weight_decay)*theta - lr*u",
        "m <- ema(m, g, beta2)",
        "weight_ema_avg <- ema(weight_ema_avg, theta, weight_ema_decay)  # weight_ema",
    ]


def test_a_decay_of_several_lines() -> None:
    before = (
        "modifier slowly(T = 10 in int [1, inf)):\n    decay theta:\n        c = 0.1\n        if t > T:\n            c = 0.2\n"
        "            theta = (1 - c)*theta\n        theta = theta - c\n"
    )
    assert step("SignSGD without weight_decay + slowly", before)[1:] == [
        "c = 0.1  # slowly",
        "theta_decayed = theta  # slowly",
        "if t > slowly_T:  # slowly",
        "    c = 0.2",
        "    theta_decayed = (1 - c)*theta_decayed",
        "theta_decayed = theta_decayed - c  # slowly",
        "theta <- theta_decayed - lr*u",
    ]


def test_theta_written_together_with_a_state() -> None:
    base = Source(
        "<base>",
        "optimizer Both:\n    hyper: lr = 1.0 in [0, inf)\n    state: m = 0\n"
        "    step:\n        u = g + m\n        (m, theta) <- (theta, theta - lr*u)\n",
    )
    shown = show(with_modifiers(base, ["decoupled", "lookahead"]).spec).split("    step:\n")[1].splitlines()
    assert [line[8:] for line in shown] == [
        "u = g + m",
        "theta_decayed = (1 - lr*weight_decay)*theta  # decoupled",
        "theta_new = theta_decayed - lr*u",
        "m <- theta_decayed",
        "every lookahead_k:  # lookahead",
        "    lookahead_slow <- lerp(lookahead_slow, theta_new, lookahead_alpha)",
        "    theta_new = lookahead_slow",
        "theta <- theta_new",
    ]


# --- names --------------------------------------------------------------------------------------------------------------------


CLASH = """\
modifier mine(lr = 0.5 in [0, inf), k = 1.0 as m in [0, inf), pair = (a = 1.0, b = 2.0) in [0, inf)):
    define half(x) = 0.5*x
    state:
        m = 0 as exp_avg
        v = 0
    mix m_hat:
        r = lr*k*a*b
        m <- half(m) + r*g
        v <- v + m
        m_hat = m_hat + v
"""


def test_names_of_a_modifier_are_kept_apart_from_the_bases() -> None:
    with pytest.raises(SpecError, match="a state `exp_avg` outside, which `RAdam` has as well"):
        step("RAdam + mine", CLASH)
    text = CLASH.replace(" as exp_avg", "")
    assert step("RAdam + mine", text)[5:9] == [
        "mine_r = mine_lr*mine_k*mine_a*mine_b  # mine",
        "mine_m <- half(mine_m) + mine_r*g  # mine",
        "mine_v <- mine_v + mine_m  # mine",
        "m_hat = m_hat + mine_v  # mine",
    ]
    expanded = expand(Source("<test>", f"{text}optimizer X = RAdam + mine\n"))
    program = check(expanded.spec, expanded.source)
    assert [h.key for h in program.hypers][-3:] == ["mine_lr", "m", "mine_pair"]
    assert [s.key for s in program.states][-2:] == ["mine_m", "mine_v"]
    assert "    define half(x) = 0.5*x\n" in show(expanded.spec)


def test_functions_come_along_and_get_another_name_where_theirs_is_taken() -> None:
    before = "define half_life(x) = twice(x)/4\n\ndefine twice(x) = 2*x\n\ndefine unused(x) = x\n\n" + (
        "modifier halved:\n    mix m_hat: m_hat = half_life(m_hat)\n"
    )
    expanded = expand(Source("<test>", f"{before}optimizer X = AdEMAMix + halved\n"))
    text = show(expanded.spec)
    assert "define half_life(beta) = " in text and "define halved_half_life(x) = twice(x)/4" in text
    assert "unused" not in text and "m_hat = halved_half_life(m_hat)  # halved" in text
    check(expanded.spec, expanded.source)


def test_words_of_stages_are_free_as_names() -> None:
    text = (
        "optimizer Words:\n    hyper:\n        clip = 1.0\n        mix = 2.0\n    state:\n        mask = 0\n        decay = 0\n"
        "    step:\n        trust = clip*mix\n        mask <- mask + trust*g\n        decay <- mask\n        average = decay\n"
        "        rewrite = mask\n        theta <- theta - rewrite\n"
    )
    assert [s.name for s in parse(Source("<test>", text)).optimizer.states if isinstance(s, nodes.State)] == ["mask", "decay"]
    assert show(parse(Source("<test>", text))) == text.replace("clip = 1.0", "clip = 1.0").replace(
        "mix = 2.0", "mix  = 2.0"
    ).replace("mask = 0\n", "mask  = 0\n")


# --- folding ------------------------------------------------------------------------------------------------------------------


def test_without_folds_a_hyper_away() -> None:
    assert signature("RAdam without weight_decay") == {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    lines = step("RAdam without weight_decay")
    assert lines[0] == "m <- ema(m, g, beta1)" and lines[-1] == "theta <- theta - lr*u"
    assert step("SGD without momentum, weight_decay") == ["u = g", "theta <- theta - lr*u"]
    assert signature("SGD without momentum, weight_decay") == {"lr": 1e-3}
    states = expand(Source("<test>", "optimizer X = AdamW without amsgrad\n")).spec.optimizer.states
    assert [s.name for s in states if isinstance(s, nodes.State)] == ["m", "v"]
    assert signature("AdEMAMix without beta3_warmup, alpha_warmup, weight_decay")["betas"] == (0.9, 0.999, 0.9999)
    assert "half_life" not in "".join(step("AdEMAMix without beta3_warmup"))


def test_without_may_name_what_went_with_another_hyper() -> None:
    """ADOPT reads the kind of its decay only where there is one."""
    alone = "ADOPT without weight_decay"
    assert "decoupled_weight_decay" not in signature(alone)
    for both in ("weight_decay, decoupled_weight_decay", "decoupled_weight_decay, weight_decay"):
        assert signature(f"ADOPT without {both}") == signature(alone)
        assert step(f"ADOPT without {both}") == step(alone)


def test_only_what_is_exact_is_folded() -> None:
    base = parse(
        Source(
            "<test>",
            "optimizer T:\n    hyper: lr = 1.0 in [0, inf); top = 1.0 in [0, inf]; any = 1.0; w = 1.0\n"
            "    step:\n        a = w*theta + g\n        b = lr*w - top*w - any*w\n        c = (1 - lr*w)*theta - w\n"
            "        theta <- a + b + c + w + top + any\n",
        )
    ).optimizer
    folded = fixed(base, {"w": nodes.Number(0)})
    assert show(nodes.Spec(folded)).split("step:\n")[1].replace("        ", "").splitlines() == [
        "a = 0*theta + g",  # theta may be infinite
        "b = 0 - top*0 - any*0",  # so may top; any may be negative
        "c = theta",
        "theta <- a + b + c + 0 + top + any",  # -0 + 0 is 0
    ]


def test_what_a_rewrite_leaves_unread_leaves_the_signature() -> None:
    assert "eps" not in signature("AdamW + atan2")
    assert "eps" in signature("AdaBelief without rectify + atan2")  # its spread reads it as well
    gone = "modifier plain:\n    rewrite (a, b, c): a/(sqrt(b) + c) -> a\n"
    lines = step("AdamW + plain", gone)
    assert lines == [
        "m <- ema(m, g, beta1)",
        "m_hat = debias(m, beta1)",
        "u = m_hat  # plain",
        "theta <- (1 - lr*weight_decay)*theta - lr*u",
    ]
    spec = expand(Source("<test>", f"{gone}optimizer X = AdamW + plain\n")).spec.optimizer
    assert [h.name for h in spec.hypers] == ["lr", "betas", "weight_decay"]
    assert [s.name for s in spec.states if isinstance(s, nodes.State)] == ["m"]


def test_what_the_base_keeps_for_others_stays() -> None:
    """ASGD's average is read by nobody but its owner."""
    states = expand(Source("<t>", "optimizer X = ASGD without weight_decay\n")).spec.optimizer.states
    assert "ax" in [s.name for s in states if isinstance(s, nodes.State)]


# --- compositions of compositions ---------------------------------------------------------------------------------------------


def test_a_composition_of_a_composition_is_that_of_all_parts(tmp_path: Path) -> None:
    (tmp_path / "inner.opt").write_text("optimizer Inner = AdamW without weight_decay + lookahead(k = 7) + proximal(0.1)\n")
    path = tmp_path / "outer.opt"
    path.write_text("optimizer Outer = Inner(lookahead_k = 3, beta1 = 0.5) without amsgrad + grams\n", encoding="utf-8")
    expanded = expand(Source(str(path), path.read_text(encoding="utf-8")))
    direct = expand(
        Source(
            "<t>", "optimizer Outer = AdamW(beta1 = 0.5) without weight_decay, amsgrad + lookahead(3) + proximal(0.1) + grams\n"
        )
    )
    assert expanded.spec.optimizer.step == direct.spec.optimizer.step
    assert expanded.spec.optimizer.hypers == direct.spec.optimizer.hypers
    without = path.with_name("less.opt")
    without.write_text("optimizer Less = Inner without lookahead_alpha\n", encoding="utf-8")
    less = expand(Source(str(without), without.read_text(encoding="utf-8")))
    assert "lerp(lookahead_slow, theta_new, 0)" in show(less.spec)


def test_texts_say_what_was_added() -> None:
    text = 'optimizer X = AdamW + grams + lookahead:\n    cite mine\n    note "first"\n'
    optimizer = expand(Source("<t>", text)).spec.optimizer
    assert optimizer.text == "Adam with decoupled weight decay and optional AMSGrad; with grams and lookahead."
    assert optimizer.cites[0] == "mine" and {"arXiv:1711.05101", "arXiv:2412.17107", "arXiv:1907.08610"} < set(optimizer.cites)
    assert optimizer.notes[0] == "first" and any(note.startswith("grams: ") for note in optimizer.notes)
    own = expand(Source("<t>", 'optimizer X = AdamW + grams:\n    "Mine."\n')).spec.optimizer
    assert own.text == "Mine."


def test_compose_gives_an_ordinary_optimizer() -> None:
    base = parse(named(shipped()["adamw"]))
    file = parse_file(MODIFIERS["grams"])
    assert isinstance(file, nodes.Composition)
    composed = compose(base.optimizer, [Applied(nodes.Term("grams"), file.modifiers[0])], Source("<t>", ""))
    assert isinstance(composed.optimizer, nodes.Optimizer)
    assert list(composed.origins.values()) == ["grams"]
    assert compose(base.optimizer, [], Source("<t>", "")).optimizer == base.optimizer


# --- all that is shipped ------------------------------------------------------------------------------------------------------


def stages(name: str) -> set[str]:
    file = parse_file(MODIFIERS[name])
    assert isinstance(file, nodes.Composition)
    return {hook.stage if isinstance(hook, nodes.Hook) else "rewrite" for m in file.modifiers for hook in m.hooks}


@pytest.mark.parametrize("name", MODIFIERS)
def test_shipped_modifiers_are_canonical_and_documented(name: str) -> None:
    source = MODIFIERS[name]
    assert format_text(source, mathematical=True) == source.text
    file = parse_file(source)
    assert isinstance(file, nodes.Composition)
    (modifier,) = file.modifiers
    assert modifier.name == name
    assert modifier.text is not None and modifier.text.endswith(".") and modifier.cites
    assert all(hyper.text and (hyper.domain or isinstance(hyper.default, nodes.Boolean)) for hyper in modifier.hypers)


@pytest.mark.parametrize("name", [name for name, path in shipped().items() if path.parent.name == "composed"])
def test_shipped_compositions_are_canonical_and_plan(name: str) -> None:
    source = named(shipped()[name])
    assert format_text(source, mathematical=True) == source.text
    expanded = expand(source)
    program = check(expanded.spec, expanded.source)
    plan_program(program)
    assert program.name.lower() == name.replace("_", "")
    assert program.text and program.text.endswith(".") and program.cites and program.notes
    assert all(hyper.text for hyper in program.hypers)


@pytest.mark.parametrize(
    ("base", "fewest"),
    [("AdamW without weight_decay, amsgrad", 60), ("Lion without weight_decay", 25), ("ADOPT without weight_decay", 25)],
)
def test_every_legal_pair_of_elementwise_modifiers_plans(base: str, fewest: int) -> None:
    """What is refused is refused for a reason that the two, or one with the base, give."""
    planned = 0
    for first, second in itertools.combinations(ELEMENTWISE, 2):
        try:
            expanded = expand(Source("<test>", f"optimizer X = {base} + {first} + {second}\n"))
        except SpecError as error:
            codes = {d.code for d in error.diagnostics}
            if codes == {"stage-taken"}:
                assert stages(first) & stages(second) & ALONE
            else:
                assert codes <= {"stage-taken", "name-clash", "missing-point", "pattern-not-found", "pattern-found-twice"}
            continue
        plan_program(check(expanded.spec, expanded.source))
        assert parse(Source("<shown>", show(expanded.spec, mathematical=True))) == expanded.spec
        planned += 1
    assert planned >= fewest


def test_added_cost_is_the_difference_of_plans() -> None:
    rows = show_added_cost(with_modifiers(named(shipped()["adamw"]), ["grams", "lookahead", "atan2"])).splitlines()
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert cells["grams"][:2] == ["0", "0"] and cells["grams"][3] == "0"
    assert cells["lookahead"][:2] == ["+8", "+4"]


# --- use ----------------------------------------------------------------------------------------------------------------------


def test_a_list_of_modifiers_is_split_outside_brackets() -> None:
    assert split_terms("cautious, lookahead(k = 6, alpha = 0.5) + atan2") == [
        "cautious",
        "lookahead(k = 6, alpha = 0.5)",
        "atan2",
    ]


def test_compiled_with_modifiers_it_steps_pickles_and_is_called_after_them(tmp_path: Path) -> None:
    composed = optc.compile("adamw", modifiers=["grams", "lookahead(k = 2)"])
    assert composed.__name__ == "GramsLookaheadAdamW"
    assert composed is optc.compile("adamw", modifiers=["grams,lookahead(k = 2)"])
    path = tmp_path / "mine.opt"
    path.write_text("optimizer GramsLookaheadAdamW = AdamW + lookahead(k = 2) + grams\n", encoding="utf-8")
    by_file = optc.compile(path)
    parameters = [torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    optimizers = [cls([p], lr=0.1, backend="torch") for cls, p in zip((composed, by_file), parameters, strict=True)]
    for number in range(3):
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            parameter.grad = torch.cos(torch.arange(5.0) + number)
            optimizer.step()
    assert torch.equal(*parameters)
    again = pickle.loads(pickle.dumps(optimizers[0]))
    assert again.param_groups[0]["lookahead_k"] == 2
    assert np.isfinite(parameters[0].detach().numpy()).all()
