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

FACTORED = """\
optimizer Factored:
    "A second moment from its rows and columns."
    note "Kernels of convolutions are matrices of one row per output."
    shape: matrix                    # one row for each index of the first dimension
    hyper:
        lr = 1e-3 in [0, inf); β = 0.9 in [0, 1); ε = 1e-30 in [0, inf); most = 1.0 in (0, inf)
        centred = false
    state:
        if ndim >= 2:
            R = 0 per row; C = 0 per col
            if centred: M = 0 per matrix
        else: v = 0
    define capped(x, limit) = x/max(1, rms(x)/limit)
    step:
        q = g^2 + ε
        if ndim >= 2:
            R <- ema(R, rowmean(q), β)
            C <- ema(C, colmean(q), β)
            if centred: M <- colmean(rowmean(g))
            r = R/colmean(R)
            u = g/√outer(r, C)
            if centred: u = u - M/(rowmax(|g|) + colmin(|g|) + 1)
        else:
            v <- ema(v, q, β)
            u = g/√v
        θ <- θ - lr*capped(u, most)
"""

GLOBAL = """\
optimizer Global:
    hyper:
        lr = 1e-3 in [0, inf); most = 1.0 shared in (0, inf); warm = none shared in int [1, inf); β = 0.9 shared in [0, 1)
        nesterov = false
        grown = true shared
    state:
        m = 0
        n = 0 per tensor
        k = 0 per model as steps
        typical = most per model as average
        if grown: size = 0 per model
    define limited(x):
        whole = total_norm(x)
        if ndim >= 2: s = whole
        else: s = 1
        return x*min(1, most/s)
    step:
        k <- k + 1
        all = total_norm(g)
        if k == 1: typical <- all
        else: typical <- ema(typical, all, β)
        if grown: size <- total(where(nesterov, norm(θ), numel))
        if warm != none and all > 100: stop
        g = g*min(1, typical/(all + 1e-12))
        n <- total(‖g‖)/total(where(ndim >= 2, 2, 1))
        m <- ema(m, limited(g), β)
        if t == 1: u = m
        else: u = where(grown, m/size, m)
        if n == 0: stop
        θ <- θ - lr*u
    entry see(h per elem):
        m <- m + h/k
"""
