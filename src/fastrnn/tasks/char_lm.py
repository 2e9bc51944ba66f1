"""A character model from nothing: an LSTM reads Python's documentation for at most a minute.

Characters go in one-hot, the next one is predicted. It starts as noise; what it has learnt shows in
the text that it makes up: words of the language, lines of the right length, paragraphs. Samples on
the way are drawn at three temperatures: low is safe and repeats itself, high is bold and misspells.
`fastrnn train` is the same job with all options.
"""

from __future__ import annotations

import re
from statistics import median

from ..callbacks import EarlyStopping, EpochLog, ProgressBar
from ..data import Streams, Vocabulary, Whole, builtin_corpus, split
from ..models import CharLM
from ..optim import Adam
from ..training import Trainer
from . import check

TEMPERATURES = (0.4, 0.8, 1.2)
STREAMS, CHUNK = 32, 100  # a gradient that looks back further than a line learns its length


def run(quick: bool = False, progress: bool | None = None) -> dict:
    """Train, print loss and speed on the way and a sample at the end; check what it has learnt.

    Parameters
    ----------
    quick : bool
        A small model and few steps, and claims to match.
    progress : bool or None
        Draw the bar; None: if the standard error stream is a terminal.

    Returns
    -------
    dict
        val_loss (nats per character), known_words (share), median_line, chars_per_s, text; curve
        of [characters read, loss, loss on unseen text].

    Raises
    ------
    ClaimError
        If the model has not learnt what it should.
    """
    text = builtin_corpus()
    vocabulary = Vocabulary.of(text)
    training, validation = split(vocabulary.encode(text), 0.1)
    model = CharLM(vocabulary.characters, "lstm", hidden_size=64 if quick else 128, seed=0)
    print(f"{len(text):,} characters of Python's documentation. An untrained model writes:\n")
    _show(_sample(model, 160))

    bar = ProgressBar(progress, unit="chars")
    log = EpochLog(bar.write, lambda row: _line(row) + _samples(model, row["epoch"]))
    # A fast machine reads so small a text a hundred times in a minute, and learns it by heart.
    stopping = EarlyStopping(patience=4)
    trainer = Trainer(model, Adam(model, 5e-3), clip=5, callbacks=[log, bar, stopping])
    data = Streams(training, STREAMS, CHUNK, seed=0), Whole(validation, STREAMS, CHUNK)
    if quick:
        rows = trainer.fit(*data, steps=300)
    else:
        rows = trainer.fit(*data, seconds=45)
        rows += trainer.fit(*data, epochs=8)  # only on a slow machine there is something left

    written = _sample(model, 6000)  # a page has too few lines to judge their length by
    print("\nThe trained model writes:\n")
    _show(written[:1500])
    loss, allowed = rows[-1]["val_loss"], 2.8 if quick else 1.7
    check(f"it predicts unseen text at {loss:.2f} < {allowed} nats per character", loss < allowed)
    share, least = _known_words(written, text), 0.05 if quick else 0.5
    check(f"{share:.0%} > {least:.0%} of its words are words of the text", share > least)
    width, usual = (median(map(len, t.splitlines())) for t in (written, text))
    if not quick:
        check(f"its median line has {width:g} characters (the text's: {usual:g})", 10 < width < 80)
    return {
        "val_loss": loss,
        "known_words": share,
        "median_line": width,
        "chars_per_s": rows[-1]["tokens_per_s"],
        "text": written,
        "curve": [
            [row["step"] * STREAMS * CHUNK, row["train_loss"], row["val_loss"]] for row in rows
        ],
    }


def _sample(model, length, temperature=0.8):
    return "".join(model.generate(length=length, temperature=temperature, seed=1))


def _samples(model, epoch):
    """Return a line at each temperature, after epochs 1, 2, 4, 8 ..."""
    if epoch & (epoch - 1):
        return ""
    lines = [(t, " ".join(_sample(model, 75, t).split())) for t in TEMPERATURES]
    return "".join(f"\n    temperature {t}: {line}" for t, line in lines)


def _known_words(written, text):
    """Return the share of the words of three letters and more that occur in the text."""
    known = set(re.findall(r"[A-Za-z]{3,}", text))
    words = re.findall(r"[A-Za-z]{3,}", written)
    return sum(word in known for word in words) / max(1, len(words))


def _line(row):
    return (
        f"epoch {row['epoch']:2d}  {row['seconds']:5.1f} s  loss {row['train_loss']:.3f}, on "
        f"unseen text {row['val_loss']:.3f} nats per character  {row['tokens_per_s']:9,.0f} chars/s"
    )


def picture(figures):
    """The loss on the way, on the text that is read and on unseen text."""
    from .drawing import panels

    figure, axes = panels(width=4.5)
    read, training, unseen = zip(*figures["curve"], strict=True)
    axes.plot(read, training, ".-", label="text it reads")
    axes.plot(read, unseen, ".-", label="unseen text")
    axes.set(xlabel="characters read", ylabel="nats per character", title="Learning a text")
    axes.legend()
    return figure


def _show(written):
    print("\n".join(f"    | {line}" for line in written.splitlines()) + "\n")
