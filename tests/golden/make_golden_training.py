"""Write training.npz: what torch computes for losses, clipping and five steps of each optimizer.

Run it in an environment with torch 2.13 when a case is added:

    python tests/golden/make_golden_training.py

Numbers that go in are exact in float32, so that one file serves both dtypes; numbers that come out
are torch's float64. "index" is JSON: the options of each optimizer case. Arrays:

    loss/CASE/{y, target, loss, dy}        clip/CASE/{max_norm, norm, grad}    clip/grad
    optim/{start, grads}                   optim/CASE   (5, 12) parameters after each step
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

STEPS, SIZE = 5, 12

# Case -> (optimizer, options). A case without options holds torch's defaults to ours.
OPTIMIZERS = {
    "sgd": ("SGD", {}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd_decay": ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.25}),
    "sgd_plain_decay": ("SGD", {"lr": 0.1, "weight_decay": 0.25}),
    "adagrad": ("Adagrad", {}),
    "adagrad_all": (
        "Adagrad",
        {
            "lr": 0.1,
            "lr_decay": 0.5,
            "weight_decay": 0.25,
            "initial_accumulator_value": 0.5,
            "eps": 0.01,
        },
    ),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_momentum": ("RMSprop", {"momentum": 0.9}),
    "rmsprop_centered": ("RMSprop", {"centered": True, "alpha": 0.75}),
    "rmsprop_all": (
        "RMSprop",
        {
            "lr": 0.1,
            "alpha": 0.75,
            "eps": 0.01,
            "weight_decay": 0.25,
            "momentum": 0.5,
            "centered": True,
        },
    ),
    "adam": ("Adam", {}),
    "adam_all": ("Adam", {"lr": 0.1, "betas": [0.5, 0.75], "eps": 0.01, "weight_decay": 0.25}),
    "adamw": ("AdamW", {}),
    "adamw_all": ("AdamW", {"lr": 0.1, "betas": [0.5, 0.75], "eps": 0.01, "weight_decay": 0.25}),
}


def exact(rng, *shape, scale=1.0):
    """Normal numbers with few bits: exact in float32."""
    return np.round(rng.standard_normal(shape) * scale * 1024) / 1024


def losses(rng):
    logits = exact(rng, 4, 3, 7, scale=3)
    logits[0, 0, 2] = -np.inf  # a class that is ruled out
    logits[1, 1] += 2048  # overflows exp unless the maximum is taken out
    classes = rng.integers(3, 7, (4, 3))
    some_ignored = classes.copy()
    some_ignored[2], some_ignored[0, 1] = -100, -100
    labels = rng.integers(0, 2, (5, 4)).astype(np.float64)
    scores = exact(rng, 5, 4, scale=20)

    def cross_entropy(y, target, **options):
        return functional.cross_entropy(y.reshape(-1, 7), target.reshape(-1), **options)

    cases = {
        "cross_entropy": (cross_entropy, logits, classes),
        "cross_entropy_some_ignored": (cross_entropy, logits, some_ignored),
        "cross_entropy_ignore_5": (
            lambda y, target: cross_entropy(y, target, ignore_index=5),
            logits,
            classes,
        ),
        "mse": (functional.mse_loss, exact(rng, 2, 3, 4), exact(rng, 2, 3, 4)),
        "bce_with_logits": (functional.binary_cross_entropy_with_logits, scores, labels),
    }
    for name, (function, y, target) in cases.items():
        tensor = torch.tensor(y, requires_grad=True)
        loss = function(tensor, torch.tensor(target))
        loss.backward()
        yield f"loss/{name}/y", y
        yield f"loss/{name}/target", target
        yield f"loss/{name}/loss", loss.item()
        yield f"loss/{name}/dy", tensor.grad.numpy()


def clipping(rng):
    grad = exact(rng, SIZE)
    yield "clip/grad", grad
    for name, max_norm in {"clipped": 0.5, "untouched": 100.0}.items():
        parameter = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        parameter.grad = torch.tensor(grad)
        norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        yield f"clip/{name}/max_norm", max_norm
        yield f"clip/{name}/norm", norm.item()
        yield f"clip/{name}/grad", parameter.grad.numpy()


def optimizers(rng):
    start, grads = exact(rng, SIZE), exact(rng, STEPS, SIZE)
    grads[:, 0] = 0  # a parameter that is never used
    grads[2, 1:3] = 1024  # one burst
    yield "optim/start", start
    yield "optim/grads", grads
    for name, (kind, options) in OPTIMIZERS.items():
        parameter = torch.tensor(start, requires_grad=True)
        optimizer = getattr(torch.optim, kind)([parameter], **options)
        after = []
        for grad in grads:
            parameter.grad = torch.tensor(grad)
            optimizer.step()
            after.append(parameter.detach().numpy().copy())
        yield f"optim/{name}", np.array(after)


def main():
    rng = np.random.default_rng(0)
    arrays = {name: value for part in (losses, clipping, optimizers) for name, value in part(rng)}
    path = Path(__file__).with_name("training.npz")
    np.savez_compressed(path, index=json.dumps(OPTIMIZERS), **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
