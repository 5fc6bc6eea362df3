"""A variational autoencoder (Kingma and Welling 2014) as a PyTorch module, on ranks that meet every 16 steps.

    mpirun -n 2 python examples/torch_vae.py
    pyddl train torch --module examples/torch_vae.py:make_model --ranks 2 --strategy averaging --outer nesterov

Between two meetings each rank trains alone; then the mean of all moves what they go on from, by Nesterov's rule: DiLoCo
(Douillard et al. 2023). The noise belongs to a row and a step, whichever rank has the row.
"""

import torch
from torch import nn
from torch.nn import functional

import pyddl


class VAE(nn.Module):
    def __init__(self, inputs, hidden=128, code=8):
        super().__init__()
        self.code = code
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, inputs))

    def loss(self, batch):
        """Minus the lower bound of the rows' log-likelihood, summed over them, and what the codes cost of it."""
        mean, log_variance = self.encoder(batch.rows).chunk(2, dim=1)
        codes = mean + batch.normal(self.code) * torch.exp(log_variance / 2)
        bits = functional.binary_cross_entropy_with_logits(self.decoder(codes), batch.rows, reduction="sum")
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
        return {"loss": bits + kl, "kl": kl}

    def sample(self, count):
        """For ``pyddl generate``."""
        return torch.sigmoid(self.decoder(torch.randn(count, self.code)))


def make_model(inputs):
    return VAE(inputs)


def main(epochs=30, strategy="averaging", **options):
    digits = pyddl.data.load("digits")
    model = pyddl.models.Torch(make_model, inputs=digits.features)
    if pyddl.world().size > 1:
        options = {"strategy": strategy, "outer": "nesterov", **options}
    result = pyddl.train.Trainer(model, batch_size=64, epochs=epochs, **options).fit(digits)
    if pyddl.world().rank == 0:
        last = result.metrics[-1]
        print(f"test ELBO {-last['test_loss']:.2f} nats, of which codes {last['test_kl']:.2f}, on "
              f"{result.summary['ranks']} ranks ({result.summary['strategy']})")
    return result


if __name__ == "__main__":
    main()
