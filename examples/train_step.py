"""A small convolutional net, for `budjoule profile examples/train_step.py:net`, and a training loop that stops within a budget."""

import torch
from torch import nn

import budjoule as bj


def net() -> nn.Module:
    """A net for 28 x 28 images in ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, 10),
    )


def main() -> None:
    """Train until one kilojoule is spent, or the data are."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images, labels = torch.randn(6400, 1, 28, 28), torch.randint(0, 10, (6400,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=64)
    step = bj.estimate(model, images[:64], device="cpu-generic", mode="training", optimizer="sgd")
    with bj.Ledger.open("budget.db", budget_j=bj.joules("1 kJ")) as ledger:
        for x, y in bj.within(ledger, loader, step_cost=step):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        print(f"spent {ledger.spent_j:.2f} J of {ledger.budget_j:.0f} J, {ledger.remaining_j:.2f} J remain")


if __name__ == "__main__":
    main()
