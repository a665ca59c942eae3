"""Float64 loops for specs of `references_elementwise` whose published update no installable library computes in every setting.

Plain numpy from the papers' algorithms, as in `tests.reference_loops`; each says where the library differs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tests.reference_loops import Hypers, Run

if TYPE_CHECKING:
    from tests.reference_cases import Problem


def yogi(hypers: Hypers, problem: Problem) -> Run:
    """Yogi, NeurIPS 2018, Algorithm 2: no debiasing, where the library always debiases the second moment."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    start, eps, decay = hypers.get("initial_accumulator", 1e-6), hypers.get("eps", 1e-3), hypers.get("weight_decay", 0.0)
    assert not hypers["bias_correction"]
    theta, thetas = problem.theta.copy(), []
    m, v = np.full_like(theta, start), np.full_like(theta, start)
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * np.sign(v - g * g) * (g * g)
        theta = theta * (1 - lr * decay) - lr * m / (np.sqrt(v) + eps)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v}


def padam(hypers: Hypers, problem: Problem) -> Run:
    """Padam, arXiv:1806.06763, with the maximum, which the library leaves out, and the debiasing of the authors' code."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, decay, power = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0), hypers.get("partial", 0.25)
    assert hypers.get("amsgrad", True)
    theta, thetas = problem.theta.copy(), []
    m, v, largest = (np.zeros_like(theta) for _ in range(3))
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        if decay != 0 and not hypers.get("decoupled_weight_decay", False):
            g = g + decay * theta
        elif decay != 0:
            theta = theta * (1 - lr * decay)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        largest = np.maximum(largest, v)
        size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        theta = theta - size * m / (np.sqrt(largest) + eps) ** (2 * power)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": largest}


def laprop(hypers: Hypers, problem: Problem) -> Run:
    """LaProp, arXiv:2002.04839, Algorithm 1: lr outside the average and eps outside the debiased root, unlike the library."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    eps, decay = hypers.get("eps", 1e-15), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, n, mean, largest = (np.zeros_like(theta) for _ in range(4))
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        n = beta2 * n + (1 - beta2) * g * g
        mean = beta2 * mean + (1 - beta2) * g
        late = hypers.get("centered", False) and t > hypers.get("steps_before_using_centered", 10)
        second = np.maximum(n - mean * mean, 0) if late else n
        largest = np.maximum(largest, second)
        second = largest if hypers.get("amsgrad", False) else second
        m = beta1 * m + (1 - beta1) * g / (np.sqrt(second / (1 - beta2**t)) + eps)
        theta = theta * (1 - lr * decay) - lr * m / (1 - beta1**t)
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_avg_sq": n, "exp_mean_avg_beta2": mean, "max_exp_avg_sq": largest}


def adapnm(hypers: Hypers, problem: Problem) -> Run:
    """AdaPNM, arXiv:2103.17182, with eps outside the debiased root, where the library has it and 1e-15 inside."""
    beta1, beta2, beta0 = hypers.get("betas", (0.9, 0.999, 1.0))
    eps, decay = hypers.get("eps", 1e-8), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    averages = [np.zeros_like(theta), np.zeros_like(theta)]
    v, largest = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        now, other = (t - 1) % 2, t % 2
        averages[now] = beta1**2 * averages[now] + (1 - beta1**2) * g
        v = beta2 * v + (1 - beta2) * g * g
        largest = np.maximum(largest, v)
        used = largest if hypers.get("amsgrad", True) else v
        m = ((1 + beta0) * averages[now] - beta0 * averages[other]) / (1 - beta1**t)
        step = m / math.hypot(1 + beta0, beta0) / (np.sqrt(used / (1 - beta2**t)) + eps)
        theta = theta * (1 - lr * decay) - lr * step
        thetas.append(theta.copy())
    states = {"exp_avg": averages[0], "neg_exp_avg": averages[1], "exp_avg_sq": v}
    return thetas, {**states, "max_exp_avg_sq": largest} if hypers.get("amsgrad", True) else states


def aggmo(hypers: Hypers, problem: Problem) -> Run:
    """AggMo, arXiv:1804.00325: the library keeps its buffers in a dictionary, which no trace holds."""
    betas, decay = hypers.get("betas", (0.0, 0.9, 0.99)), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    buffers = [np.zeros_like(theta) for _ in betas]
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        if decay != 0:
            g = g + decay * theta
        buffers = [beta * b + g for beta, b in zip(betas, buffers, strict=True)]
        for b in buffers:
            theta = theta - lr / len(betas) * b
        thetas.append(theta.copy())
    return thetas, {f"momentum_buffer{number}": b for number, b in enumerate(buffers, start=1)}


def pid(hypers: Hypers, problem: Problem) -> Run:
    """PID, CVPR 2018, also without momentum, where the library becomes plain SGD."""
    momentum, integral, derivative = hypers.get("momentum", 0.9), hypers.get("integral", 5.0), hypers.get("derivative", 10.0)
    dampening = hypers.get("dampening", 0.0)
    assert hypers.get("weight_decay", 0.0) == 0.0
    theta, thetas = problem.theta.copy(), []
    before, total, change = (np.zeros_like(theta) for _ in range(3))
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        total = momentum * total + (1 - dampening) * g
        if t > 1:
            change = momentum * change + (1 - momentum) * (g - before)
        before = g
        theta = theta - lr * (g + integral * total + derivative * change)
        thetas.append(theta.copy())
    return thetas, {"grad_buffer": before, "i_buffer": total, "d_buffer": change}


def srmm(hypers: Hypers, problem: Problem) -> Run:
    """SRMM, arXiv:2201.01652, with weights from 1 on: the library's first weight is below 1 and shrinks the parameter."""
    beta, length = hypers.get("beta", 0.5), hypers.get("memory_length", 100)
    theta, thetas = problem.theta.copy(), []
    gradient, parameter = np.zeros_like(theta), np.zeros_like(theta)
    for t, lr, g, _ in problem.steps(hypers["lr"]):
        weight = ((t - 1) % length + 1) ** -beta
        gradient = gradient * (1 - weight) + g * weight
        parameter = parameter * (1 - weight) + theta * weight - lr * gradient
        theta = parameter
        thetas.append(theta.copy())
    return thetas, {"mov_avg_grad": gradient, "mov_avg_param": parameter}


def ftrl(hypers: Hypers, problem: Problem) -> Run:
    """FTRL-Proximal, doi:10.1145/2487575.2488200, Algorithm 1 with any power, where the library always divides by a root."""
    power, beta = hypers.get("lr_power", -0.5), hypers.get("beta", 0.0)
    l1, l2 = hypers.get("lambda_1", 0.0), hypers.get("lambda_2", 0.0)
    theta, thetas = problem.theta.copy(), []
    z, n = np.zeros_like(theta), np.zeros_like(theta)
    for _, lr, g, _ in problem.steps(hypers["lr"]):
        sigma = ((n + g * g) ** -power - n**-power) / lr
        z = z + g - sigma * theta
        n = n + g * g
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = -(z - np.sign(z) * l1) / ((beta + n**-power) / lr + l2)
        theta = np.where(np.abs(z) <= l1, 0.0, moved)
        thetas.append(theta.copy())
    return thetas, {"z": z, "n": n}


def adahessian(hypers: Hypers, problem: Problem) -> Run:
    """AdaHessian, arXiv:2006.00719, with estimates from time to time, which the library debiases by the number of steps."""
    beta1, beta2 = hypers.get("betas", (0.9, 0.999))
    power, eps, decay = hypers.get("hessian_power", 1.0), hypers.get("eps", 1e-4), hypers.get("weight_decay", 0.0)
    theta, thetas = problem.theta.copy(), []
    m, s, estimates = np.zeros_like(theta), np.zeros_like(theta), 0
    for t, lr, g, calls in problem.steps(hypers["lr"]):
        m = beta1 * m + (1 - beta1) * g
        if estimates > 0:
            curvature = np.sqrt(s / (1 - beta2**estimates)) ** power
            theta = theta * (1 - lr * decay) - lr * m / (1 - beta1**t) / (curvature + eps)
        for call in calls:
            s = beta2 * s + (1 - beta2) * call.inputs["g_s"] ** 2
            estimates += 1
        thetas.append(theta.copy())
    return thetas, {"exp_avg": m, "exp_hessian_diag_sq": s, "hessian_weight": 1 - beta2**estimates}
