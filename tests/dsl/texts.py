"""Spec texts that the tests of the syntax share."""

ADAMW = """\
optimizer AdamW:
    "Adam with decoupled weight decay."
    cite arXiv:1711.05101
    note "eps is added outside the root."
    hyper:
        lr           = 1e-3                   in [0, inf) "step size"   # text for the docstring
        betas        = (β1 = 0.9, β2 = 0.999) in [0, 1)
        eps          = 1e-8                   in [0, inf)
        weight_decay = 1e-2                   in [0, inf)
    state:
        m = 0 as exp_avg             # the key torch.optim uses, so its checkpoints load
        v = 0 as exp_avg_sq
    step:
        m <- ema(m, g, β1)
        v <- ema(v, g^2, β2)
        m̂ = debias(m, β1)
        v̂ = debias(v, β2)
        u = m̂ / (sqrt(v̂) + eps)
        θ <- (1 - lr*weight_decay)*θ - lr*u
"""

SGD = """\
optimizer SGD:                       # static conditions: without momentum there is no buffer
    hyper:
        lr = 1e-3 in [0, inf); momentum = 0.0 in [0, inf); dampening = 0.0; weight_decay = 0.0 in [0, inf); nesterov = false
        require not nesterov or momentum > 0 and dampening == 0, "Nesterov needs a momentum and no dampening"
    state:
        if momentum != 0: b = 0 as momentum_buffer
    step:
        g = g + weight_decay*θ
        u = g
        if momentum != 0:
            if new(b): b <- g
            else: b <- momentum*b + (1 - dampening)*g
            u = where(nesterov, g + momentum*b, b)
        θ <- θ - lr*u
"""

ADOPT = """\
optimizer ADOPT:
    hyper: lr = 1e-3 in [0, inf); betas = (β1 = 0.9, β2 = 0.9999) in [0, 1); eps = 1e-6
    state: m = 0 as exp_avg; v = 0 as exp_avg_sq
    step:                            # an early end; normalise by the old v
        if t == 1: v <- g²; stop
        n = clamp(g/max(√v, ε), -(t - 1)^0.25, (t - 1)^0.25)
        m <- ema(m, n, β1)
        v <- ema(v, g², β2)
        u = m
        θ <- θ - lr*u
"""
