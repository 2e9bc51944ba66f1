"""The echo model as a whole program, fastrnn against PyTorch: from nothing to all right.

What it is: LSTM of 25 units over 5 steps of 10 numbers, Linear, softmax, Adam, one sequence a step;
the third number has to come back. Each program starts Python, imports its library, trains until
1,500 answers in a row were right, and answers 10,000 fresh sequences. The clock runs from the start
of the process to its end; the programs take turns.
What it is not: the same random numbers on both sides. Each draws its own weights, so the number of
steps differs from seed to seed, and the time of a step is listed beside that of the program.

PyTorch runs on one thread, its fastest way for a model of this size.

    python bench/echo.py --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LENGTH, NUMBERS, OUT_INDEX, HIDDEN, RATE = 5, 10, 2, 25, 5e-3
IN_A_ROW, MOST, FRESH = 1500, 30_000, 10_000


def run_fastrnn(seed):
    import numpy as np

    import fastrnn as fr

    fr.set_num_threads(1)
    rng = np.random.default_rng(seed)
    lstm, linear = fr.LSTM(NUMBERS, HIDDEN, seed=seed), fr.Linear(HIDDEN, NUMBERS, seed=seed + 1)
    model = fr.Sequential(lstm, linear)
    train = fr.TrainStep(model, fr.optim.Adam(model, RATE), last_only=True)

    def step():
        x = rng.integers(0, NUMBERS, (LENGTH, 1))
        target = x[OUT_INDEX]
        train(x, target)
        return train.output.argmax() == target[0]

    def wrong():
        x = rng.integers(0, NUMBERS, (LENGTH, FRESH))
        y, _ = lstm(x)
        return (linear(y[-1])[0].argmax(1) != x[OUT_INDEX]).sum()

    return step, wrong


def run_torch(seed):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    lstm, linear = torch.nn.LSTM(NUMBERS, HIDDEN), torch.nn.Linear(HIDDEN, NUMBERS)
    adam = torch.optim.Adam([*lstm.parameters(), *linear.parameters()], RATE)
    rows, loss = torch.eye(NUMBERS), torch.nn.CrossEntropyLoss()

    def step():
        x = torch.randint(0, NUMBERS, (LENGTH, 1))
        y, _ = lstm(rows[x])
        logits = linear(y[-1])
        adam.zero_grad()
        loss(logits, x[OUT_INDEX]).backward()
        adam.step()
        return logits.argmax() == x[OUT_INDEX, 0]

    def wrong():
        x = torch.randint(0, NUMBERS, (LENGTH, FRESH))
        with torch.no_grad():
            return (linear(lstm(rows[x])[0][-1]).argmax(1) != x[OUT_INDEX]).sum()

    return step, wrong


SIDES = {"fastrnn": run_fastrnn, "torch": run_torch}


def program(name, seed):
    """One side: train, test, and print what happened as JSON."""
    step, wrong = SIDES[name](seed)
    steps = in_a_row = 0
    start = time.perf_counter()
    while in_a_row < IN_A_ROW and steps < MOST:
        steps += 1
        in_a_row = in_a_row + 1 if step() else 0
    us = (time.perf_counter() - start) / steps * 1e6
    print(json.dumps({"steps": steps, "us": us, "wrong": int(wrong())}))


def main():
    options = arguments()
    if options.program:
        program(options.program, options.seed)
        return
    import measure
    from peers import python_of

    pythons = {"fastrnn": sys.executable, "torch": python_of("torch")}
    runs = {name: [] for name in pythons}
    for seed in range(options.rounds):
        for name, python in pythons.items():
            start = time.perf_counter()
            done = subprocess.run(
                [python, __file__, "--program", name, "--seed", str(seed)],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            runs[name].append({"seconds": time.perf_counter() - start} | json.loads(done.stdout))
    keys = ("seconds", "us", "steps", "wrong")
    medians = {n: {k: statistics.median(r[k] for r in runs[n]) for k in keys} for n in runs}
    ours, theirs = medians["fastrnn"], medians["torch"]
    env = measure.environment()
    rows = [
        (n, f"{m['seconds']:.2f}", f"{m['us']:.1f}", f"{m['steps']:,.0f}", f"{m['wrong']:.0f}")
        for n, m in medians.items()
    ]
    header = ("echo", "seconds, whole program", "us a step", "steps", f"wrong of {FRESH:,}")
    markdown = (
        f"{measure.headline(env)} LSTM {HIDDEN}, {LENGTH} steps of {NUMBERS} numbers, one sequence "
        f"a step, one thread; medians of {options.rounds} programs each.\n\n"
        f"{measure.table(header, rows)}\n"
        f"fastrnn: the program {theirs['seconds'] / ours['seconds']:.1f} times, a step "
        f"{theirs['us'] / ours['us']:.1f} times as fast.\n"
    )
    print(markdown)
    if not options.no_write:
        print("written:", measure.write("echo", {"environment": env, "runs": runs}, markdown))


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/echo.py --rounds 5",
    )
    parser.add_argument("--rounds", type=int, default=5, help="programs of each side (5)")
    parser.add_argument("--program", choices=SIDES, help="run one side, and print JSON")
    parser.add_argument("--seed", type=int, default=0, help="of --program")
    parser.add_argument("--no-write", action="store_true", help="print only, write no result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
