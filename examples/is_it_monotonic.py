"""Does the loss rise on this line? Three answers: on a grid, from a sample of the examples, and proved for every α.

    python examples/is_it_monotonic.py

The grid can miss a rise between its points. The sample needs a few hundred examples and states its probability of
error. The certificate holds for every α and costs the most.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

import lerpscape as ls

TOLERANCE = 1e-2  # nats: rises up to here do not count


def main() -> None:
    """Train a network, ask three times."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        for rows in torch.arange(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()

    line, data = ls.Line(start, model), [(x, y)]
    print("grid:       ", ls.profile(model, line, data, alphas=50).verdict(TOLERANCE))
    sampled = ls.sequential_verdict(model, line, data, tolerance=TOLERANCE, confidence=0.99, first=100)
    print("sample:     ", sampled.summary)
    print("certificate:", ls.certify(model, line, data, tolerance=TOLERANCE).summary)


if __name__ == "__main__":
    main()
