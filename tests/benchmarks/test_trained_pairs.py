"""What adversarial pairs reach by the recipes of benchmarks/adversarial.py: figures of docs. Minutes, so only in
`make test-long`."""

import pytest

from benchmarks import adversarial
from pyddl.data import find

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("name", "share"), [("8 Gaussians", 0.9), ("25 Gaussians", 0.95)])
def test_all_modes_of_a_mixture_are_found(capsys, name, share):
    """Of 2500 samples of each of two seeds, so many are good."""
    lines = [adversarial.mixture(name, seed, 1.0)[0] for seed in range(2)]
    with capsys.disabled():
        print(f"\n{name}, two seeds: {lines}")
    for line in lines:
        assert line["modes"] == len(adversarial.MIXTURES[name]) and line["high_quality"] >= share


@pytest.mark.skipif(find("mnist") is None, reason="no MNIST here")
def test_digits_are_near_to_those_of_the_test_set(tmp_path, capsys):
    classifier = adversarial.classifier_of("mnist", tmp_path)
    for name in adversarial.DIGITS:
        judge = adversarial.Judge(classifier, adversarial.digits_of("test", name))
        sample, _ = adversarial.trained(adversarial.digits_of("train", name), adversarial.DIGITS[name], 0, 1.0)
        distance = judge.distance(sample(judge.count))
        with capsys.disabled():
            print(f"\n{name}: Frechet distance {distance:.2f}")
        assert distance < 5
