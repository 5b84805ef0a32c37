"""Contributions of all layers by one backward pass, and of the blocks that a network repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, POLICIES, batches, generator, seeded
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.blocks import block_names

IDS = torch.randint(0, 11, (12, 6), generator=generator(1))


class Language(nn.Module):
    """Tokens, two layers of a transformer whose own lists are longer than that of the layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attend": nn.MultiheadAttention(8, 2, batch_first=True),
                    "mlp": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8)),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer["attend"](x, x, x, need_weights=False)[0]  # type: ignore[index]
            x = x + layer["mlp"](x)  # type: ignore[index]
        out: Tensor = self.head(x)
        return out


def language() -> tuple[nn.Module, nn.Module, Any]:
    start, end = (seeded(Language, seed).double() for seed in (0, 1))
    return start, end, batches(IDS, IDS, 5)


def split(start: nn.Module, end: nn.Module, data: Any, **options: Any) -> ls.studies.Contributions:
    return ls.studies.layer_contributions(start, ls.Line(start, end), data, between=(0, 1), budget=9, **options)


@pytest.mark.parametrize("policy", [None, "interpolate", "end", "batch"])
def test_one_backward_pass_gives_what_a_forward_pass_a_layer_gives(policy: str | None) -> None:
    if policy is None:
        (start, end, data), options = language(), {"loss": "next_token"}
    else:
        case = CASES[3]
        (start, end), data = case.ends(), case.data()
        options = {"batch_norm": POLICIES[policy](data)}
    forward = split(start, end, data, derivative="forward", **options)
    found = split(start, end, data, **options)
    assert found.how["derivative"] == "backward passes, each batch" != forward.how["derivative"]
    assert found.names == forward.names and found.losses == pytest.approx(forward.losses, rel=1e-13)
    np.testing.assert_allclose(found.slopes, forward.slopes, rtol=1e-8, atol=1e-12)


def test_statistics_that_are_estimated_take_forward_mode() -> None:
    case = CASES[3]
    (start, end), data = case.ends(), case.data()
    assert split(start, end, data, batch_norm=ls.Recalibrate(data)).how["derivative"].startswith("forward mode")
    with pytest.raises(ValueError, match="no gradient leads through batch-norm statistics estimated at α"):
        split(start, end, data, batch_norm=ls.Recalibrate(data), derivative="backward")


def test_forward_mode_takes_over_where_gradients_are_cut() -> None:
    class Cut(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self[0](x).tanh()
            out: Tensor = self[1](x)
            return out

    start, end = (seeded(lambda: Cut(nn.Linear(4, 5), nn.Linear(5, 2)), seed).double() for seed in (0, 1))
    x = torch.randn(12, 4, generator=generator(3), dtype=torch.float64)
    found = split(start, end, [(x, torch.ones(12, dtype=torch.long))])
    assert found.how["derivative"].startswith("forward mode, each example: dℓ/dα of an example at α = ")
    assert found.parts[0] != 0


def test_blocks_gather_what_lies_in_them() -> None:
    start, end, data = language()
    found, modules = (split(start, end, data, loss="next_token", by=by) for by in ("block", "module"))
    assert found.names == ("embed", "layers.0", "layers.1", "head")
    inside = [i for i, name in enumerate(modules.names) if name.startswith("layers.1.")]
    np.testing.assert_allclose(found.slopes[:, 2], modules.slopes[:, inside].sum(1), rtol=1e-12, atol=1e-14)


def test_one_block_left_out() -> None:
    """Under names with a prefix, as wrappers give them: by hand, the start's block in the end's network."""
    start, end, data = language()
    ends = [{f"net.{name}": tensor for name, tensor in each.state_dict().items()} for each in (start, end)]
    found = ls.studies.layerwise(start, *ends, data, rest="end", by="block", loss="next_token", alphas=3)
    assert found.layers == ("net.embed", "net.layers.0", "net.layers.1", "net.head")
    kept = {name: tensor for name, tensor in start.state_dict().items() if name.startswith("layers.1.")}
    mixed = seeded(Language, 2).double()
    mixed.load_state_dict(end.state_dict() | kept)
    with torch.no_grad():
        logits = mixed(IDS)[:, :-1].transpose(1, 2)
    assert found.losses[2, 0] == pytest.approx(float(nn.functional.cross_entropy(logits, IDS[:, 1:])), rel=1e-12)


def residual() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), ()),
        (nn.Sequential(residual(), residual()), ("0", "1")),
        (nn.ModuleDict({"body": nn.Sequential(residual(), nn.Linear(2, 2))}), ()),
        (nn.ModuleDict({"body": nn.ModuleList([residual(), nn.Linear(2, 2)])}), ("body.0", "body.1")),
        (nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), ()),
    ],
)
def test_what_a_block_is(model: nn.Module, names: tuple[str, ...]) -> None:
    assert block_names(model) == names
