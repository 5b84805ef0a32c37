"""A LeNet with batch norm, trained on real MNIST, is decided; where `LERPSCAPE_DATA` says the images are."""

import copy
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lerpscape as ls
from lerpscape.lab.data import load
from lerpscape.lab.models.lenet import lenet

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(scope="module")
def trained():
    """An epoch of SGD on 12,000 training images, and the first 50 of them."""
    if "LERPSCAPE_DATA" not in os.environ:
        pytest.skip("LERPSCAPE_DATA is not set: no MNIST here")
    train = load("mnist").train
    x = (train.inputs[:12_000].float() / 255 - 0.1307) / 0.3081
    y = train.targets[:12_000]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = lenet((1, 28, 28), 10, batch_norm=True)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert (model.eval()(x[:50]).argmax(1) == y[:50]).float().mean() > 0.9
    return model, ls.Line(start, model), [(x[:50], y[:50])]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [ls.InterpolateStatistics(), ls.EndStatistics()], ids=lambda p: type(p).__name__)
def test_a_convolutional_network_with_batch_norm_is_decided(trained, policy):
    model, line, data = trained
    found = ls.certify(model, line, data, batch_norm=policy)
    print(found.summary, found.how["seconds"])
    assert found.verdict in ("monotonic", "violated")
    assert found.stopped == "decided"
    profile = ls.profile(model, line, data, alphas=501, batch_norm=policy, dtype=torch.float64)
    assert found.lower <= profile.max_rise + 1e-4  # a grid may miss the top by little
    assert profile.max_rise <= found.upper
    for (low, high), values in (
        (found.loss_bounds(profile.alphas), profile.loss),
        (found.slope_bounds(profile.alphas), profile.derivative),
        (found.accuracy_bounds(profile.alphas), profile.accuracy),
    ):
        assert np.all(low <= values + 1e-10 * (1 + np.abs(values)))
        assert np.all(values <= high + 1e-10 * (1 + np.abs(values)))
