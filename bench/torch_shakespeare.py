"""Tiny Shakespeare, fastrnn against PyTorch: seconds of training until validation reaches a target.

What it is: two processes with the same initial weights, the same chunks in the same order and the
same optimizer settings (batch 50 x 50, Adam 2e-3, gradient norm clipped to 5). They train in
alternating slices and never at the same time: who is not asked is stopped, by a signal where the
system has one, or its threads might still spin on the cores. Only training is on the clock, not
validation.
What it is not: a tuned recipe for the lowest loss.

PyTorch gets its one-hot rows from a table, the fastest way it has for ``nn.LSTM`` on characters.
It lives in an environment of its own: ``TORCH_PYTHON`` names its interpreter, or one is made
under bench/.envs.

    TORCH_PYTHON=/path/to/python python bench/torch_shakespeare.py --cell lstm --hidden 128
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SHAKESPEARE = HERE.parents[1] / "shared" / "data" / "tinyshakespeare.txt"
TRAIN_CHARACTERS = 1_003_854  # the usual split of this file
RATE, LIMIT = 2e-3, 5.0
TORCH = "torch==2.13.0"
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Driver:
    """Parent side: starts one worker per contender and talks to one at a time."""

    def __init__(self, pythons, options, folder):
        self.workers = {}
        for name, python in pythons.items():
            command = [python, __file__, "--worker", name, "--folder", folder]
            command += ["--cell", options.cell, "--hidden", str(options.hidden)]
            command += ["--layers", str(options.layers)]
            command += ["--batch", str(options.batch), "--seq-len", str(options.seq_len)]
            count = str(options.threads)
            env = os.environ | {"OMP_NUM_THREADS": count, "FASTRNN_NUM_THREADS": count}
            self.workers[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
            )

    def ask(self, name, request):
        worker = self.workers[name]
        self.signal(worker, "SIGCONT")
        worker.stdin.write(request + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        self.signal(worker, "SIGSTOP")
        if not answer:
            raise SystemExit(f"the {name} process ended with code {worker.wait()}")
        return json.loads(answer)

    @staticmethod
    def signal(worker, name):
        number = getattr(signal, name, None)  # Windows has none of them
        if number is not None and worker.poll() is None:
            worker.send_signal(number)

    def close(self):
        for worker in self.workers.values():
            self.signal(worker, "SIGCONT")
            worker.stdin.close()
            worker.wait()


def drive(options):
    import measure

    tokens, vocabulary = read(options.text)
    pythons = {"fastrnn": sys.executable, "torch": torch_python()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), tokens=tokens, vocabulary=vocabulary)
        np.savez(Path(folder, "weights.npz"), **initial_weights(options, vocabulary))
        driver = Driver(pythons, options, folder)
        try:
            versions = {name: driver.ask(name, "hello")["version"] for name in pythons}
            history = race(driver, list(pythons), options)
        finally:
            driver.close()
    env = measure.environment()
    env["versions"]["torch"], env["threads"] = versions["torch"], options.threads
    markdown = summary(history, options, measure.headline(env))
    print("\n" + markdown)
    settings = {
        name: getattr(options, name) for name in vars(options) if name not in ("text", "no_write")
    }
    report = {"environment": env, "settings": settings, "history": history}
    name = f"torch_shakespeare_{options.cell}_{options.layers}x{options.hidden}"
    if not options.no_write:
        print("written:", measure.write(name, report, markdown))


def race(driver, names, options):
    """Alternate slices until every contender has reached the target or run out of time."""
    history = {name: [] for name in names}
    running = list(names)
    while running:
        for name in list(running):
            point = driver.ask(name, f"train {options.slice}")
            point |= driver.ask(name, "validate")
            history[name].append(point)
            print(
                f"{name:8} {point['step']:6} steps {point['seconds']:7.1f} s "
                f"train {point['train']:.4f} validation {point['validation']:.4f}",
                flush=True,
            )
            if point["validation"] <= options.target or point["seconds"] > options.max_seconds:
                running.remove(name)
    return history


def summary(history, options, headline):
    from measure import table

    rows = []
    for name, points in history.items():
        last = points[-1]
        reached = last["validation"] <= options.target
        seconds = f"{last['seconds']:.1f}" if reached else f"not in {last['seconds']:.0f}"
        rate = last["step"] * options.batch * options.seq_len / last["seconds"]
        loss = f"{last['validation']:.4f}"
        rows.append((name, seconds, f"{last['step']:,}", f"{rate:,.0f}", loss))
    # One of the two may have stopped earlier; up to there they can be compared step by step.
    both = list(zip(history["fastrnn"], history["torch"], strict=False))
    gap = max(abs(ours["validation"] - theirs["validation"]) for ours, theirs in both)
    speed = both[-1][1]["seconds"] / both[-1][0]["seconds"]
    header = (f"to {options.target} nats", "seconds", "steps", "characters/s", "validation")
    return (
        f"{headline} {options.cell.upper()} {options.layers}x{options.hidden}, batch "
        f"{options.batch} x {options.seq_len}, Adam {RATE}, clip {LIMIT:g}.\n\n"
        f"{table(header, rows)}\n"
        f"Same number of steps: fastrnn is {speed:.2f} times as fast; the validation losses "
        f"differ by at most {gap:.1e} nats.\n"
    )


def read(path):
    if not path.exists():
        raise SystemExit(f"{path} is absent; pass the path of tinyshakespeare.txt")
    text = path.read_text(encoding="utf-8")
    index = {character: k for k, character in enumerate(sorted(set(text)))}
    return np.array([index[character] for character in text], np.int64), len(index)


def initial_weights(options, vocabulary):
    """torch's default distribution, drawn once for both contenders, by torch's names."""
    rng, bound, weights = np.random.default_rng(0), options.hidden**-0.5, {}
    rows = GATES[options.cell] * options.hidden
    shapes = {}
    for k in range(options.layers):
        shapes[f"0.weight_ih_l{k}"] = (rows, options.hidden if k else vocabulary)
        shapes[f"0.weight_hh_l{k}"] = (rows, options.hidden)
        shapes[f"0.bias_ih_l{k}"] = shapes[f"0.bias_hh_l{k}"] = (rows,)
    shapes |= {"1.weight": (vocabulary, options.hidden), "1.bias": (vocabulary,)}
    for name, shape in shapes.items():
        weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return weights


def torch_python():
    """The interpreter that has PyTorch, from TORCH_PYTHON or an environment made here."""
    if os.environ.get("TORCH_PYTHON"):
        return os.environ["TORCH_PYTHON"]
    folder = HERE / ".envs" / "torch"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making {folder} with {TORCH}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "numpy", TORCH], check=True)
    return str(python)


# Worker side: one contender in a process of its own, which works only when asked.


class Streams:
    """A text cut into B long rows; chunk k of every row, then the next, carrying the state."""

    def __init__(self, tokens, batch, seq_len):
        self.length = seq_len
        self.chunks = (len(tokens) - 1) // batch // seq_len
        rows, span = batch, self.chunks * seq_len
        starts = np.arange(rows) * ((len(tokens) - 1) // rows)
        cut = [tokens[start : start + span + 1] for start in starts]
        self.text = np.ascontiguousarray(np.stack(cut, axis=1))  # (span + 1, B)

    def chunk(self, k):
        start = k * self.length
        text = self.text[start : start + self.length + 1]
        return text[:-1], text[1:]


class FastContender:
    def __init__(self, options, vocabulary, weights):
        import fastrnn as fr

        layer = {"rnn": fr.RNN, "lstm": fr.LSTM, "gru": fr.GRU}[options.cell]
        recurrent = layer(vocabulary, options.hidden, options.layers)
        self.fr, self.model = fr, fr.Sequential(recurrent, fr.Linear(options.hidden, vocabulary))
        self.model.load_state_dict(weights)
        adam = fr.optim.Adam(self.model, RATE)
        self.train = fr.TrainStep(self.model, adam, clip_norm=LIMIT)
        self.version = fr.__version__

    def step(self, inputs, targets, state):
        return self.train(inputs, targets, state)

    def loss(self, inputs, targets, state):
        logits, state = self.model(inputs, state)
        return self.fr.cross_entropy(logits, targets)[0], state


class TorchContender:
    def __init__(self, options, vocabulary, weights):
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        cell = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[options.cell]
        self.torch, self.one_hot = torch, torch.eye(vocabulary)
        recurrent = cell(vocabulary, options.hidden, options.layers)
        self.model = torch.nn.Sequential(recurrent, torch.nn.Linear(options.hidden, vocabulary))
        self.model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE)
        self.version = torch.__version__

    def step(self, inputs, targets, state):
        self.optimizer.zero_grad()
        loss, state = self._forward(inputs, targets, state)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), LIMIT)
        self.optimizer.step()
        detached = tuple(s.detach() for s in state) if type(state) is tuple else state.detach()
        return loss.item(), detached

    def loss(self, inputs, targets, state):
        with self.torch.no_grad():
            loss, state = self._forward(inputs, targets, state)
        return loss.item(), state

    def _forward(self, inputs, targets, state):
        torch = self.torch
        y, state = self.model[0](self.one_hot[torch.from_numpy(inputs)], state)
        logits = self.model[1](y).flatten(0, 1)
        targets = torch.from_numpy(targets).flatten()
        return torch.nn.functional.cross_entropy(logits, targets), state


def work(options):
    """Answer requests from standard input: ``hello``, ``train STEPS``, ``validate``."""
    data = np.load(Path(options.folder, "data.npz"))
    weights = dict(np.load(Path(options.folder, "weights.npz")))
    tokens, vocabulary = data["tokens"], int(data["vocabulary"])
    training = Streams(tokens[:TRAIN_CHARACTERS], options.batch, options.seq_len)
    validation = Streams(tokens[TRAIN_CHARACTERS:], options.batch, options.seq_len)
    kind = {"fastrnn": FastContender, "torch": TorchContender}[options.worker]
    contender = kind(options, vocabulary, weights)
    step, seconds, state = 0, 0.0, None
    for line in sys.stdin:
        request = line.split()
        if request[0] == "hello":
            answer = {"version": contender.version}
        elif request[0] == "train":
            losses, start = [], time.perf_counter()
            for _ in range(int(request[1])):
                if step % training.chunks == 0:
                    state = None  # a new epoch starts at the top of every row
                loss, state = contender.step(*training.chunk(step % training.chunks), state)
                losses.append(loss)
                step += 1
            seconds += time.perf_counter() - start
            answer = {"step": step, "seconds": seconds, "train": float(np.mean(losses))}
        else:
            held, losses = None, []
            for k in range(validation.chunks):
                loss, held = contender.loss(*validation.chunk(k), held)
                losses.append(loss)
            answer = {"validation": float(np.mean(losses))}
        print(json.dumps(answer), flush=True)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog="Example: python bench/torch_shakespeare.py --hidden 256 --layers 2 --target 1.55",
    )
    parser.add_argument("text", nargs="?", type=Path, default=SHAKESPEARE, help="the file")
    parser.add_argument("--cell", choices=GATES, default="lstm")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seq-len", type=int, default=50)
    parser.add_argument("--target", type=float, default=1.72, help="nats per character")
    parser.add_argument("--max-seconds", type=float, default=300, help="of training, per contender")
    parser.add_argument("--slice", type=int, default=100, help="steps a turn (default 100)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-write", action="store_true", help="print only, write no result files")
    parser.add_argument("--worker", choices=("fastrnn", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    work(chosen) if chosen.worker else drive(chosen)
