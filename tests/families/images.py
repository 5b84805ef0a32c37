"""Networks on images and on plain vectors, and what their losses are over."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lerpscape as ls
from families.family import Family, batches, integers, normal

Losses = tuple[Tensor, Tensor | None]


def classified(model: nn.Module, item: Any) -> Losses:
    x, y = item
    outputs = model(*x) if type(x) is tuple else model(x)
    return F.cross_entropy(outputs, y, reduction="none"), None


def squared(model: nn.Module, item: Any) -> Losses:
    x, y = item
    outputs = model(*x) if type(x) is tuple else model(x)
    return (outputs - y).square().flatten(1).sum(1), None


def vectors(width: int = 6, classes: int = 3, count: int = 13) -> list[Any]:
    return batches(normal(count, width), integers(count, below=classes))


def pictures(channels: int = 3, side: int = 8, classes: int = 3, count: int = 7) -> list[Any]:
    return batches(normal(count, channels, side, side), integers(count, below=classes), size=4)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def head(channels: int, classes: int = 3) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class BatchNormAct(nn.BatchNorm2d):
    """Batch norm with its activation in one class."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.silu(super().forward(x))


class FrozenBatchNorm(nn.Module):
    """Batch norm whose four tensors are buffers, as in detection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class Residual(nn.Module):
    def __init__(self, channels: int, norm: Any) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.first, self.second = norm(channels), norm(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.two(self.act(self.first(self.one(x))))) + x)


def residual(norm: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Residual(4, norm), nn.MaxPool2d(2), Residual(4, norm), *head(4))


class Squeeze(nn.Module):
    """A depthwise convolution and a gate over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardswish(self.depth(x))
        return h * torch.sigmoid(self.up(F.relu(self.down(h.mean((2, 3), keepdim=True)))))


class UNet(nn.Module):
    """Down and up again, with a skip that is concatenated."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.deep(skip))], 1))


class Segmenter(nn.Module):
    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.last = last

    def forward(self, x: Tensor) -> Any:
        return self.net(x).permute(0, 2, 3, 1) if self.last else {"out": self.net(x), "aux": x.mean()}


def segmented(model: nn.Module, item: Any) -> Losses:
    x, y = item
    outputs = model(x)
    logits = outputs["out"] if isinstance(outputs, dict) else outputs.permute(0, 3, 1, 2)
    each = F.cross_entropy(logits, y, ignore_index=255, reduction="none").flatten(1)
    kept = (y != 255).flatten(1).sum(1)
    return each.sum(1) / kept.clamp(min=1), (kept > 0).double()


def segmented_over_pixels(model: nn.Module, item: Any) -> Losses:
    return segmented(model, item)[0], (item[1] != 255).flatten(1).sum(1).double()


def maps() -> list[Any]:
    labels = integers(7, 6, 5, below=4)
    labels[:, :2][normal(7, 2, 5, seed=5) > 0] = 255
    labels[3] = 255  # one picture has no label at all
    return batches(normal(7, 3, 6, 5), labels, size=4)


class Patches(nn.Module):
    """A vision transformer: patches, a class token, positions, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.positions
        return self.out(self.norm(self.layers(h)[:, 0]))


class Heads(nn.Module):
    """Several outputs in a dictionary, one of them a regression."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.scales = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.body(x))
        return {"kind": self.kind(h), "box": self.box(h), "scales": self.scales}


def of_heads(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Two losses, weighed by learned uncertainties (Kendall, Gal & Cipolla 2018)."""
    kind = F.cross_entropy(outputs["kind"], targets["kind"], reduction="none")
    box = F.smooth_l1_loss(outputs["box"], targets["box"], reduction="none").mean(1)
    one, two = outputs["scales"]
    return kind * (-one).exp() + one + box * (-two).exp() + two


def boxes() -> list[Any]:
    kinds, places = integers(11, below=3), normal(11, 4, seed=3)
    return [
        (x, {"kind": k, "box": p})
        for x, k, p in zip(normal(11, 6).split(4), kinds.split(4), places.split(4), strict=True)
    ]


class Twice(nn.Module):
    """A Siamese network: one body for both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(one), self.body(other)


def margin(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    distance = F.pairwise_distance(*outputs)
    return torch.where(targets == 1, distance.square(), F.relu(2.0 - distance).square())


def contrasted(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    """InfoNCE: the others of the batch are the negatives (van den Oord, Li & Vinyals 2018)."""
    one, other = (F.normalize(each, dim=1) for each in outputs)
    return F.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)), reduction="none")


def by(loss: Any) -> Any:
    """The user's loop with a loss that gives one value per example."""

    def loop(model: nn.Module, item: Any) -> Losses:
        x, y = item
        outputs = model(*x) if type(x) is tuple else model(x)
        return loss(outputs, y), None

    return loop


def by_batch(loss: Any) -> Any:
    """The user's loop with a loss that couples the examples of a batch: its mean, weighed by how many there are."""

    def loop(model: nn.Module, item: Any) -> Losses:
        values = by(loss)(model, item)[0]
        return values.mean().reshape(1), torch.tensor([float(len(item[1]))])

    return loop


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.down, self.up = (nn.Parameter(0.3 * torch.randn(*s)) for s in ((4, 6), (4,), (6,)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight, self.down)), self.weight.T, self.up)


class Variational(nn.Module):
    """A variational autoencoder; its noise is part of the data, or drawn anew in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, 1)
        return self.decode(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


def elbo(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
    decoded, mean, log_variance = outputs
    divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)
    return (decoded - targets).square().sum(1) + divergence


class Codebook(nn.Module):
    """A vector-quantised autoencoder with the straight-through estimator (van den Oord et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.codes, self.decode = nn.Linear(6, 4), nn.Embedding(5, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        codes = self.codes(torch.cdist(h, self.codes.weight).argmin(1))
        return self.decode(h + (codes - h).detach())


class Warped(nn.Module):
    """A spatial transformer: the picture is sampled on a grid that the network chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.read = nn.Linear(3 * 64, 6), nn.Linear(3 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.3 * torch.tanh(self.where(x.flatten(1))).view(-1, 2, 3) + torch.eye(2, 3, dtype=x.dtype)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.read(F.grid_sample(x, grid, align_corners=False).flatten(1))


class Distilled(nn.Module):
    """A student and its frozen teacher in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(6, 3), nn.Linear(6, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher = self.teacher(x)
        return self.student(x), teacher.detach()


def distilled(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    student, teacher = outputs
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="none").sum(1)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (1 - (-each).exp()).square() * each


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def weighted_classes(model: nn.Module, item: Any) -> Losses:
    x, y = item
    return F.cross_entropy(model(x), y, reduction="none"), CLASS_WEIGHTS[y]


def cox(outputs: Tensor, targets: Tensor) -> Tensor:
    """The negative partial likelihood (Cox 1972) of a batch in which all events are seen."""
    risk = outputs.squeeze(1)[targets.argsort(descending=True)]
    return -(risk - risk.logcumsumexp(0)).mean()


def cox_loop(model: nn.Module, item: Any) -> Losses:
    x, y = item
    return cox(model(x), y).reshape(1), torch.tensor([float(len(y))])


def multi_label(model: nn.Module, item: Any) -> Losses:
    x, y = item
    return F.binary_cross_entropy_with_logits(model(x), y, reduction="none").mean(1), None


def no_slope(reason: str) -> dict[str, str]:
    """What is refused where there is no derivative."""
    return {"derivative": reason, "contributions": reason}


def with_statistics(**options: Any) -> dict[str, Any]:
    return {"batch_norm": ls.InterpolateStatistics(), **options}


FAMILIES = [
    Family("fully connected, dropout", mlp, vectors, classified),
    Family(
        "convolutions, batch norm", lambda: residual(nn.BatchNorm2d), pictures, classified, options=with_statistics()
    ),
    Family(
        "batch norm fused with its activation",
        lambda: residual(BatchNormAct),
        pictures,
        classified,
        options=with_statistics(),
        refused=no_slope("difference quotient"),
    ),
    Family("frozen batch norm (all buffers)", lambda: residual(FrozenBatchNorm), pictures, classified),
    Family(
        "instance norm with running statistics",
        lambda: residual(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
        pictures,
        classified,
        options=with_statistics(),
        refused=no_slope("running_mean"),
    ),
    Family("instance norm", lambda: residual(lambda c: nn.InstanceNorm2d(c, affine=True)), pictures, classified),
    Family("group norm", lambda: residual(lambda c: nn.GroupNorm(2, c)), pictures, classified),
    Family(
        "depthwise, squeeze and excitation",
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), Squeeze(6), *head(6)),
        pictures,
        classified,
    ),
    Family(
        "UNet, regression",
        lambda: UNet(2),
        lambda: batches(normal(6, 3, 8, 8), normal(6, 2, 8, 8, seed=4), size=4),
        squared,
        "squared_error",
    ),
    Family("segmentation, 255 ignored", Segmenter, maps, segmented, ls.Loss("cross_entropy", ignore=255)),
    Family(
        "segmentation, mean over pixels",
        Segmenter,
        maps,
        segmented_over_pixels,
        ls.Loss("cross_entropy", ignore=255, weights="positions"),
    ),
    Family(
        "segmentation, classes last",
        lambda: Segmenter(last=True),
        maps,
        segmented,
        ls.Loss("cross_entropy", ignore=255, class_dim=-1),
    ),
    Family("vision transformer", Patches, pictures, classified),
    Family("several heads, targets in a dict", Heads, boxes, by(of_heads), of_heads),
    Family(
        "Siamese, margin loss",
        Twice,
        lambda: batches(normal(11, 6), normal(11, 6, seed=3), integers(11, below=2)),
        by(margin),
        margin,
    ),
    Family(
        "contrastive (InfoNCE over the batch)",
        Twice,
        lambda: batches(normal(11, 6), normal(11, 6, seed=3), integers(11, below=2)),
        by_batch(contrasted),
        contrasted,
    ),
    Family(
        "tied autoencoder", TiedAutoencoder, lambda: batches(normal(11, 6), normal(11, 6)), squared, "squared_error"
    ),
    Family(
        "variational autoencoder, noise in the data",
        Variational,
        lambda: batches(normal(11, 6), normal(11, 3, seed=5), normal(11, 6)),
        by(elbo),
        elbo,
    ),
    Family(
        "vector-quantised autoencoder",
        Codebook,
        lambda: batches(normal(11, 6), normal(11, 6)),
        squared,
        "squared_error",
        refused=no_slope("difference quotient"),
    ),
    Family("spatial transformer", Warped, pictures, classified),
    Family(
        "distillation, frozen teacher",
        Distilled,
        vectors,
        by(distilled),
        distilled,
        refused=no_slope("detach"),
        instead='`path.only("student")` holds the teacher',
    ),
    Family("focal loss", mlp, vectors, by(focal), focal),
    Family(
        "class weights", mlp, vectors, weighted_classes, ls.Loss("cross_entropy", weights=lambda y: CLASS_WEIGHTS[y])
    ),
    Family(
        "several labels each",
        mlp,
        lambda: batches(normal(11, 6), integers(11, 3, below=2).double()),
        multi_label,
        "binary_cross_entropy",
    ),
    Family(
        "Cox regression (a loss per batch)",
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)),
        lambda: batches(normal(11, 6), normal(11, seed=4)),
        cox_loop,
        ls.Loss("cox", cox, per="batch", weights=lambda t: torch.tensor([float(len(t))])),
    ),
]
