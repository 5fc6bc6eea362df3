"""A strategy of one's own: local SGD (Stich, 2019) whose period doubles.

    pyddl train autoencoder --strategy examples/doubling.py:Doubling --ranks 2
    pyddl simulate --strategy examples/doubling.py:Doubling --strategy-options longest=32 --workers 16
    mpirun -n 2 python examples/doubling.py
"""

import pyddl
from pyddl.comm.operations import BeginStep, Compute, StepDone, Update
from pyddl.strategies import Strategy, average


class Doubling(Strategy):
    """Replicas that are averaged after 1 step, then after 2 more, 4 more, ..., at most ``longest``."""

    needs = 2  # ranks

    def __init__(self, first: int = 1, longest: int = 64):
        self.first, self.longest = first, longest

    def worker(self, me):
        while (yield BeginStep()):                # false at the end of the data
            for _ in me.turns():                  # one, but for models of several phases
                yield Compute()                   # me.gradients: the sum over my rows of the batch
                if me.samples:
                    yield Update(1 / me.samples)  # the optimizer moves me.parameters
            mine = me.counters                    # kept in checkpoints
            mine["samples"] = mine.get("samples", 0) + me.samples
            mine["left"] = mine.get("left", self.first) - 1
            if mine["left"] == 0:
                yield from self.settle(me)
                mine["period"] = min(2 * mine.get("period", self.first), self.longest)
                mine.update(samples=0, left=mine["period"])
            yield StepDone()

    def settle(self, me):                         # what evaluation and the saved model use
        yield from average(me, me.parameters, [me.parameters], [me.counters.get("samples", 0)])
        yield from me.merge_buffers()


def main(**options):
    digits = pyddl.data.load("digits")
    model = pyddl.models.Autoencoder(digits.features, hidden=(32, 8))
    strategy = Doubling(longest=16) if pyddl.world().size > 1 else "local"
    return pyddl.train.Trainer(model, strategy=strategy, batch_size=64, **options).fit(digits)


if __name__ == "__main__":
    result = main(epochs=10)
    if pyddl.world().rank == 0:
        print(result)
