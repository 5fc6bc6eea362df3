"""gensim's Word2Vec on a parameter server: rank 0 holds the model and AdaGrad's state, the other ranks make gradients.

    make word2vec                      # an environment with gensim, then this file on 1 server and 3 workers
    mpirun -n 4 python examples/word2vec.py [--epochs 50]

The corpus is the one inside gensim, Lee's 300 news stories. Skip-gram with negative sampling (Mikolov et al. 2013), as
gensim does it, but in NumPy and by the minibatch, whose pairs share their negative samples (Ji et al. 2016). A
minibatch touches some rows of the two matrices, and only these travel to the server.

At the end the model is compared with two that gensim trained alone for as long: words per second, and per second of
processor time, of all ranks together; the loss that both minimise; the agreement of similarities with gensim's first
model, whose second shows how much is chance; and with those that people gave.
"""

import argparse
import time

import numpy as np
from gensim.models import Word2Vec
from gensim.test.utils import datapath
from gensim.utils import simple_preprocess

import pyddl
from pyddl.callbacks import AdaGradDescent

SHARED = 256  # negative samples that the pairs of a minibatch share
FREQUENT = 500  # words whose pairs are compared
SETTINGS = {"vector_size": 100, "sg": 1, "negative": 5, "min_count": 5, "workers": 1}


def parameters(model):
    return {"input": model.wv.vectors, "output": model.syn1neg}


class SkipGram:
    """Gradients of skip-gram with negative sampling, for documents given as arrays of word numbers."""

    def __init__(self, model, random):
        self.random, self.window, self.negative = random, model.window, model.negative
        self.keep = model.wv.expandos["sample_int"] / 2**32  # frequent words are dropped more often
        self.cumulative = model.cum_table

    def __call__(self, model, documents):
        """The update, (rows, values) of both matrices: the gradient of the loss, summed over all pairs."""
        word, context = self.pairs(documents)
        if not len(word):
            return {}
        words, word = np.unique(word, return_inverse=True)
        contexts, context = np.unique(context, return_inverse=True)
        counts = np.bincount(context * len(words) + word, minlength=len(contexts) * len(words))
        counts = counts.reshape(len(contexts), len(words)).astype(np.float32)
        negatives = np.searchsorted(self.cumulative, self.random.integers(self.cumulative[-1], size=SHARED))
        x, y, z = model.wv.vectors[contexts], model.syn1neg[words], model.syn1neg[negatives]
        pull = counts * -sigmoid(-(x @ y.T))
        push = sigmoid(x @ z.T) * (counts.sum(axis=1, keepdims=True) * (self.negative / SHARED))
        return {"input": (contexts, pull @ y + push @ z),
                "output": (np.concatenate([words, negatives]), np.concatenate([pull.T @ x, push.T @ x]))}

    def loss(self, model, documents):
        """Mean over the pairs of -log s(x y) - n E[log s(-x z)], with all z that may be drawn instead of some."""
        word, context = self.pairs(documents)
        scores = model.wv.vectors @ model.syn1neg.T
        chances = np.diff(self.cumulative.astype(np.float64), prepend=0) / self.cumulative[-1]
        others = np.logaddexp(0, scores) @ chances
        return np.mean(np.logaddexp(0, -scores[context, word])) + self.negative * np.mean(others[context])

    def pairs(self, documents):
        """Word numbers of (word, context), within a window that is drawn for each word."""
        words = np.concatenate(documents)
        document = np.repeat(np.arange(len(documents)), [len(each) for each in documents])
        kept = self.random.random(len(words)) < self.keep[words]
        words, document = words[kept], document[kept]
        reach = self.random.integers(1, self.window + 1, len(words))
        found = []
        for distance in range(1, self.window + 1):
            left, right = words[:-distance], words[distance:]
            same = document[:-distance] == document[distance:]
            for word, context, near in ((left, right, reach[:-distance] >= distance),
                                        (right, left, reach[distance:] >= distance)):
                found.append((word[same & near], context[same & near]))
        return (np.concatenate(part) for part in zip(*found, strict=True))


def numbered(stories, model):
    """The words of each story, those that the model knows, by their numbers."""
    number = model.wv.key_to_index
    return [np.array([number[word] for word in story if word in number]) for story in stories]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def similarities(model, words):
    """Cosines of all pairs of these words."""
    vectors = model.wv[words]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(words), 1)]


def rank_correlation(a, b):
    """Spearman's."""
    return np.corrcoef(*(np.argsort(np.argsort(x)) for x in (a, b)))[0, 1]


def quality(model, reference):
    """Agreement with another model, and with people: WordSim-353, of whose 353 pairs this corpus knows 60."""
    people = model.wv.evaluate_word_pairs(datapath("wordsim353.tsv"))[1][0]
    words = reference.wv.index_to_key[:FREQUENT]
    return rank_correlation(similarities(model, words), similarities(reference, words)), people


def compare(model, report, processors, stories, epochs):
    """Print what was trained here beside what gensim alone makes of the same stories, twice."""
    documents = numbered(stories, model)
    name = f"server, {len(report.by_worker)} workers" if pyddl.world().size > 1 else "one process"
    rows = [(name, model, report.seconds, processors)]
    for seed in (1, 2):
        alone = Word2Vec(seed=seed, **SETTINGS)
        alone.build_vocab(stories)
        begin, begin_processor = time.perf_counter(), time.process_time()
        alone.train(stories, total_examples=len(stories), epochs=epochs)
        rows.append((f"gensim alone, seed {seed}", alone, time.perf_counter() - begin,
                     time.process_time() - begin_processor))
    words = epochs * sum(map(len, documents))
    print(f"{len(documents)} documents, {len(model.wv)} words, {words:,} in {epochs} epochs")
    print(f"{'':24}{'words/s':>10}{'per processor':>15}{'loss':>8}{'agreement':>11}{'WordSim-353':>13}")
    for name, trained, seconds, processors in rows:
        loss = SkipGram(trained, np.random.default_rng(5)).loss(trained, numbered(stories, trained))
        agreement, people = quality(trained, rows[1][1])
        print(f"{name:24}{words / seconds:>10,.0f}{words / processors:>15,.0f}{loss:>8.3f}{agreement:>11.3f}"
              f"{people:>13.3f}")
    print(f"{report.updates} updates, {report.descent_seconds / report.seconds:.0%} of the time in descent; staleness "
          + ", ".join(f"{stale}: {count}" for stale, count in sorted(report.staleness.items())))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--epochs", type=int, default=50)
    options.add_argument("--batch-size", type=int, default=30, help="documents of all workers together")
    options.add_argument("--learning-rate", type=float, default=0.1)
    options.add_argument("--fetch-every", type=int, default=1)
    options = options.parse_args()

    with open(datapath("lee_background.cor"), encoding="utf-8") as file:
        stories = [simple_preprocess(line) for line in file]
    model = Word2Vec(seed=1, **SETTINGS)
    model.build_vocab(stories)
    gradient = SkipGram(model, np.random.default_rng(pyddl.world().rank))
    descent = AdaGradDescent(parameters, options.learning_rate)
    begin = time.process_time()
    with pyddl.ParameterServer(model, parameters=parameters) as server:
        report = server.train(numbered(stories, model), gradient, descent, batch_size=options.batch_size,
                              epochs=options.epochs, shuffle=True, fetch_every=options.fetch_every)
    processors = sum(pyddl.world().transport.gather_objects(time.process_time() - begin))
    if pyddl.world().rank == 0:
        compare(model, report, processors, stories, options.epochs)


if __name__ == "__main__":
    main()
