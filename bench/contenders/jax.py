"""JAX, as a contender: ``lax.scan`` over the steps, the input product before it, all jitted."""

import os

import jax
import jax.numpy as jnp
import numpy as np


class Contender:
    def __init__(self, threads):
        # XLA takes as many threads as there are processors to run on, counted at the first array.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def versions(self):
        return {"jax": jax.__version__}

    def ways(self, case, data):
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        jax.clear_caches()
        # Transposed once, outside: weights as JAX's own users keep them.
        params = {
            name: jnp.asarray(data[name].T if name.startswith("weight") else data[name])
            for name, _ in case.parameters()
        }
        x = jnp.asarray(data["x"])
        lengths = jnp.asarray(data["lengths"]) if case.ragged else None

        @jax.jit
        def forward(params, x):
            return _stack(case, params, x, lengths)

        @jax.jit
        def train(params, x, dy):
            if case.tokens:
                y, pull = jax.vjp(lambda p: _stack(case, p, x, lengths), params)
                return {"y": y, **pull(dy)[0]}
            y, pull = jax.vjp(lambda p, x: _stack(case, p, x, lengths), params, x)
            grads, dx = pull(dy)
            return {"y": y, "dx": dx, **grads}

        @jax.jit
        def step(params, x, state):
            state = _step(case, params, _projected(params, x, "_l0", case)[0], state, "_l0")
            return state[0][None], state

        zeros = jnp.zeros((case.B, case.H), case.dtype)
        state = (zeros, zeros) if case.cell == "lstm" else (zeros,)
        dy = jnp.asarray(data["dy"]) if case.mode == "train" else None

        def infer_call():
            return {"y": forward(params, x).block_until_ready()}

        def train_call():
            return jax.block_until_ready(train(params, x, dy))

        def step_call():
            nonlocal state
            y, state = step(params, x, state)
            return {"y": y.block_until_ready()}

        calls = {"infer": infer_call, "train": train_call, "stream": step_call}
        yield "jit" if case.mode == "stream" else "jit of lax.scan", calls[case.mode]

    def result(self, raw):
        arrays = {name: np.asarray(value) for name, value in raw.items()}
        return {n: v.T if n.startswith("weight") else v for n, v in arrays.items()}


def _projected(params, x, end, case):
    """x W + b for all steps; what the reset gate multiplies stays out of b."""
    W, bias = params["weight_ih" + end], params["bias_ih" + end]
    if case.cell == "gru":
        hh = params["bias_hh" + end]
        bias = bias + jnp.concatenate((hh[: 2 * case.H], jnp.zeros_like(hh[: case.H])))
    else:
        bias = bias + params["bias_hh" + end]
    if case.tokens and end == "_l0":
        return W[x] + bias  # a row for each token
    return x @ W + bias


def _step(case, params, a, state, end):
    R, (h, *rest) = params["weight_hh" + end], state
    product = h @ R
    if case.cell == "rnn":
        return (jnp.tanh(a + product),)
    if case.cell == "lstm":
        i, f, g, o = jnp.split(a + product, 4, axis=-1)
        c = jax.nn.sigmoid(f) * rest[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    H = case.H
    r, z = jnp.split(jax.nn.sigmoid(a[:, : 2 * H] + product[:, : 2 * H]), 2, axis=-1)
    n = jnp.tanh(a[:, 2 * H :] + r * (product[:, 2 * H :] + params["bias_hh" + end][2 * H :]))
    return (n + z * (h - n),)


def _stack(case, params, x, lengths):
    for k in range(case.layers):
        ys = []
        for suffix in ("", "_reverse")[: case.directions]:
            end = f"_l{k}{suffix}"
            ys.append(_direction(case, params, x, lengths, end, bool(suffix)))
        x = ys[0] if len(ys) == 1 else jnp.concatenate(ys, axis=2)
    return x


def _direction(case, params, x, lengths, end, reverse):
    a = _projected(params, x, end, case)
    zeros = jnp.zeros((case.B, case.H), a.dtype)
    start = (zeros, zeros) if case.cell == "lstm" else (zeros,)

    def body(state, step):
        if lengths is None:
            new = _step(case, params, step, state, end)
            return new, new[0]
        a_t, alive = step
        new = _step(case, params, a_t, state, end)
        new = tuple(jnp.where(alive, n, s) for n, s in zip(new, state, strict=True))
        return new, jnp.where(alive, new[0], 0)

    steps = a
    if lengths is not None:
        steps = (a, (jnp.arange(case.T)[:, None] < lengths)[:, :, None])
    return jax.lax.scan(body, start, steps, reverse=reverse)[1]
