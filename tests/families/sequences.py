"""Recurrent networks, transformers and language models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import lerpscape as ls
from families.family import Family, batches, integers, normal
from families.images import Losses, by, classified, no_slope

VOCABULARY = 9


def tokens(count: int = 7, length: int = 5, seed: int = 1, least: int = 0) -> Tensor:
    return integers(count, length, below=VOCABULARY, seed=seed, least=least)


def shifted() -> list[Any]:
    """Sequences, and what follows each token, with other lengths of padding."""
    whole = tokens(length=6)
    targets = whole[:, 1:].clone()
    targets[torch.arange(5) >= integers(7, below=5, seed=4)[:, None] + 1] = -100
    return batches(whole[:, :-1], targets, size=4)


def each_sequence(model: nn.Module, item: Any) -> Losses:
    """The mean over the tokens of a sequence that count."""
    x, y = item
    each = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
    return each.sum(1) / (y != -100).sum(1), None


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(VOCABULARY, 6), kind(6, 5, **options)
        self.read = nn.Linear(10 if options.get("bidirectional") else 5, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(self.embed(x))[0])


class Packed(nn.Module):
    """An LSTM on packed sequences of other lengths, which reads its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x: PackedSequence) -> Tensor:
        return self.read(self.cell(x)[1][0][-1])


class PackedTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: PackedSequence) -> Tensor:
        return self.read(pad_packed_sequence(self.cell(x)[0], batch_first=True, total_length=6)[0])


def packed() -> list[Any]:
    lengths = [(5, 2, 6, 3), (4, 1, 6)]
    return [
        (
            pack_sequence([normal(n, 4, seed=10 * i + n) for n in each], enforce_sorted=False),
            integers(len(each), below=3, seed=i),
        )
        for i, each in enumerate(lengths)
    ]


def packed_tags() -> list[Any]:
    labels = integers(7, 6, below=3)
    lengths = torch.tensor([5, 2, 6, 3, 4, 1, 6])
    labels[torch.arange(6) >= lengths[:, None]] = -100
    return [(x, y) for (x, _), y in zip(packed(), labels.split(4), strict=True)]


def time_first() -> list[Any]:
    return [(x.T.contiguous(), y.T.contiguous()) for x, y in shifted()]


def each_column(model: nn.Module, item: Any) -> Losses:
    x, y = item
    each = F.cross_entropy(model(x).permute(1, 2, 0), y.T, reduction="none")
    return each.sum(1) / (y.T != -100).sum(1), None


class Encoder(nn.Module):
    """torch's Transformer encoder with padding masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8, padding_idx=0)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.read = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.layers(self.embed(ids), src_key_padding_mask=~mask)
        return self.read((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def padded() -> list[Any]:
    lengths = torch.tensor([5, 3, 2, 4, 1, 5, 2])
    mask = torch.arange(5) < lengths[:, None]
    return batches(tokens(least=1) * mask, mask, integers(7, below=3), size=4)


def padded_dicts() -> list[Any]:
    return [{"ids": ids, "mask": mask, "labels": y} for (ids, mask), y in padded()]


def keyed(model: nn.Module, item: Any) -> Losses:
    outputs = model(**{name: value for name, value in item.items() if name != "labels"})
    return F.cross_entropy(outputs, item["labels"], reduction="none"), None


class Decoder(nn.Module):
    """torch's Transformer from source to target."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, 8), nn.Embedding(VOCABULARY, 8)
        self.both = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        self.read = nn.Linear(8, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=self.read.weight.dtype)
        return self.read(self.both(self.source(source), self.target(target), tgt_mask=mask))


def translated(model: nn.Module, item: Any) -> Losses:
    x, y = item
    return F.cross_entropy(model(*x).transpose(1, 2), y, reduction="none").mean(1), None


class Causal(nn.Module):
    """A language model with a causal mask; its input and output embeddings may be one tensor."""

    def __init__(self, tied: bool = False, own_loss: bool = False) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCABULARY, 8), nn.Embedding(6, 8)
        self.query, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.norm, self.read = nn.LayerNorm(8), nn.Linear(8, VOCABULARY, bias=False)
        if tied:
            self.read.weight = self.embed.weight
        self.own_loss = own_loss

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        h = self.embed(input_ids) + self.places.weight[: input_ids.shape[1]]
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.query(self.norm(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        logits = self.read(h)
        if not self.own_loss:
            return logits
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def language() -> list[Any]:
    ids = tokens(length=6)
    labels = ids.clone()
    labels[torch.arange(6) >= integers(7, below=4, seed=4)[:, None] + 2] = -100
    return [{"input_ids": x, "labels": y} for x, y in zip(ids.split(4), labels.split(4), strict=True)]


def next_tokens(model: nn.Module, item: Any) -> Losses:
    """The mean over all tokens, as language models define it."""
    outputs = model(item["input_ids"])
    logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
    labels = item["labels"][:, 1:]
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    kept = (labels != -100).sum(1)
    return each.sum(1) / kept.clamp(min=1), kept.double()


def own_means(model: nn.Module, item: Any) -> Losses:
    """The loss that the model returns, weighed by the labels it is a mean over."""
    return model(**item)["loss"].reshape(1), (item["labels"][:, 1:] != -100).sum().reshape(1).double()


class Experts(nn.Module):
    """A mixture of experts: each example goes to the two that the router ranks first."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = self.route(x).softmax(1).topk(2, dim=1)
        out = x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * scores[rows, place, None])
        return out


class Scan(nn.Module):
    """A selective state-space layer (after Gu & Dao 2023), as a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 7)
        self.decay, self.read = nn.Parameter(torch.rand(4, 3)), nn.Linear(4, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        step, b, c = self.mix(x).split((1, 3, 3), -1)
        step = F.softplus(step)
        state, out = x.new_zeros(len(x), 4, 3), []
        for t in range(x.shape[1]):
            kept = torch.exp(-step[:, t, :, None] * self.decay.exp())
            state = kept * state + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
            out.append((state * c[:, t, None]).sum(-1))
        return self.read(torch.stack(out, 1))


class StateSpace(nn.Module):
    """A diagonal state-space layer with complex poles, as a convolution by FFT (after Gu, Goel & Ré 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.poles = nn.Parameter(torch.complex(-torch.rand(5), torch.randn(5)).cdouble())
        self.gains = nn.Parameter(torch.complex(torch.randn(5), torch.randn(5)).cdouble())
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        times = torch.arange(x.shape[1], dtype=x.dtype)
        kernel = (self.gains[:, None] * torch.exp(self.poles[:, None] * times)).sum(0).real
        n = 2 * x.shape[1]
        return self.read(torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(kernel, n), n)[:, : x.shape[1]])


class Speech(nn.Module):
    """Log-probabilities over time, for CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv1d(6, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).permute(2, 0, 1).log_softmax(2)


def ctc(outputs: Tensor, targets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    labels, times, lengths = targets
    return F.ctc_loss(outputs, labels, times, lengths, reduction="none", zero_infinity=True) / lengths


def spoken() -> list[Any]:
    lengths, times = torch.tensor([3, 1, 2, 3, 2, 1, 3]), torch.tensor([8, 8, 7, 8, 6, 5, 8])
    parts = zip(
        normal(7, 4, 8).split(4),
        integers(7, 3, below=5, least=1).split(4),
        times.split(4),
        lengths.split(4),
        strict=True,
    )
    return [(x, (y, t, n)) for x, y, t, n in parts]


class Bag(nn.Module):
    """Sums of embeddings of ragged lists: one long tensor and where each begins."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.EmbeddingBag(VOCABULARY, 5, mode="mean"), nn.Linear(5, 3)

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return self.read(torch.tanh(self.embed(words, offsets)))


def ragged() -> list[Any]:
    return [
        (
            (integers(sum(n), below=VOCABULARY, seed=sum(n)), torch.tensor([0, *n[:-1]]).cumsum(0)),
            integers(len(n), below=3),
        )
        for n in ([3, 1, 4], [2, 2, 5, 1])
    ]


class Shared(nn.Module):
    """One block applied five times, as in universal transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.Tanh())
        self.again = self.block
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = x + self.block(x)
        return self.read(self.again(x))


class Equilibrium(nn.Module):
    """A deep equilibrium network: one layer is applied until nothing changes (Bai, Kolter & Koltun 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside, self.read = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        given, z = self.outside(x), torch.zeros_like(x)
        for _ in range(200):
            after = torch.tanh(0.4 * self.inside(z) + given)
            if float((after - z).detach().abs().max()) < 1e-13:
                break
            z = after
        return self.read(after)


class Factors(nn.Module):
    """Matrix factorisation: users, things, and a bias for each."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(5, 4, max_norm=None), nn.Embedding(7, 4)
        self.bias = nn.Parameter(torch.zeros(7))

    def forward(self, user: Tensor, thing: Tensor) -> Tensor:
        return (self.users(user) * self.things(thing)).sum(1) + self.bias[thing]


class Capped(nn.Module):
    """An embedding that renormalises itself in place at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(VOCABULARY, 5, max_norm=0.5), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.embed(ids).mean(1))


def tagged(model: nn.Module, item: Any) -> Losses:
    x, y = item
    each = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
    return each.sum(1) / (y != -100).sum(1), None


def recommended() -> list[Any]:
    return batches(integers(11, below=5), integers(11, below=7, seed=3), normal(11, seed=4))


FAMILIES = [
    Family("LSTM", lambda: Recurrent(nn.LSTM, num_layers=2, batch_first=True), shifted, each_sequence),
    Family(
        "bidirectional GRU", lambda: Recurrent(nn.GRU, bidirectional=True, batch_first=True), shifted, each_sequence
    ),
    Family(
        "recurrent network, time first",
        lambda: Recurrent(nn.RNN),
        time_first,
        each_column,
        ls.Loss("cross_entropy", batch_dim=1),
    ),
    Family("LSTM on packed sequences", Packed, packed, classified),
    Family("tagger on packed sequences", PackedTagger, packed_tags, tagged),
    Family("Transformer encoder, padding masks", Encoder, padded, classified),
    Family("Transformer encoder, batches as dicts", Encoder, padded_dicts, keyed),
    Family(
        "Transformer, source to target",
        Decoder,
        lambda: batches(tokens(), tokens(seed=2), tokens(seed=3), size=4),
        translated,
    ),
    Family("causal language model, next token", Causal, language, next_tokens, "next_token"),
    Family("causal language model, tied", lambda: Causal(tied=True), language, next_tokens, "next_token"),
    Family("causal language model, its own loss", lambda: Causal(own_loss=True), language, own_means, "model"),
    Family("mixture of experts, routed", Experts, lambda: batches(normal(11, 6), integers(11, below=3)), classified),
    Family("selective state space", Scan, shifted, each_sequence),
    Family(
        "state space with complex poles", StateSpace, lambda: batches(normal(11, 6), integers(11, below=3)), classified
    ),
    Family("speech, CTC", Speech, spoken, by(ctc), ctc),
    Family("bag of words, ragged", Bag, ragged, classified),
    Family(
        "one block used five times, under two names",
        Shared,
        lambda: batches(normal(11, 6), integers(11, below=3)),
        classified,
    ),
    Family("deep equilibrium", Equilibrium, lambda: batches(normal(11, 6), integers(11, below=3)), classified),
    Family("matrix factorisation", Factors, recommended, by(lambda z, y: (z - y).square()), "squared_error"),
    Family(
        "embedding with max_norm",
        Capped,
        lambda: batches(tokens(), integers(7, below=3), size=4),
        classified,
        refused=no_slope("difference quotient"),
    ),
]
