"""Batches of objects: placed, copied and told apart by what they hold; and loaders that use one memory for all."""

from __future__ import annotations

import threading
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import batches, classes, ends, random
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import lerpscape as ls
from lerpscape.networks.batches import batch_of
from lerpscape.networks.reading import Reader
from lerpscape.networks.rebatching import same_layout

INPUTS, TARGETS = random(20, 4, seed=0), classes(20, seed=1)
Named = namedtuple("Named", "x scale")


class Attributes:
    def __init__(self, x: Tensor) -> None:
        self.x, self.itself, self.note = x, self, "a graph"


class Slots:
    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x


@dataclass(frozen=True)
class Fields:
    x: Tensor
    weights: np.ndarray[Any, Any]


class Moving(Attributes):
    """Moves itself, as PyTorch Geometric's Data does, and says so."""

    def to(self, *_: Any) -> Moving:
        self.x = self.x.clone()
        return self


class Words(UserDict[str, Tensor]):
    @property
    def x(self) -> Tensor:
        return self["x"]


MAKERS: dict[str, Callable[[Tensor], Any]] = {
    "attributes": Attributes,
    "slots": Slots,
    "fields": lambda x: Fields(x, x.numpy().copy()),
    "moves itself": Moving,
    "named tuple": lambda x: Named(x, 2.0),
    "sparse": lambda x: Attributes(x.to_sparse()),
    "in a list": lambda x: [[Attributes(x)]],
}


class FirstPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: Any) -> Tensor:
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        x = inputs.x.to_dense()
        inputs.x.mul_(3) if not inputs.x.is_sparse else None
        outputs: Tensor = self.layer(x.clone() / 3 if not inputs.x.is_sparse else x)
        return outputs


@pytest.mark.parametrize("name", MAKERS)
def test_objects_are_lent_as_copies_and_hashed_by_what_they_hold(name: str) -> None:
    make = MAKERS[name]
    start, end = ends(FirstPart)
    line = ls.Line(start, end)
    data = [(make(inputs.clone()), targets) for inputs, targets in batches(INPUTS, TARGETS)]
    digests = [batch_of(item).digest() for item in data]
    found = ls.profile(start, line, data, alphas=4, progress=False)
    linear = nn.Linear(4, 3).double()
    plain = ls.Line(*({key.removeprefix("layer."): each for key, each in m.state_dict().items()} for m in (start, end)))
    expected = ls.profile(linear, plain, batches(INPUTS, TARGETS), alphas=4, progress=False)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)  # float64, the same sums
    assert [batch_of(item).digest() for item in data] == digests
    assert batch_of((make(INPUTS.clone()), TARGETS)).digest() == batch_of((make(INPUTS.clone()), TARGETS)).digest()
    assert batch_of((make(INPUTS.clone()), TARGETS)).digest() != batch_of((make(-INPUTS), TARGETS)).digest()
    batch = batch_of((make(INPUTS.clone()), TARGETS))
    assert batch.bytes() >= INPUTS.numel() * 8 and batch.opaque is None and not same_layout([batch])
    single = batch.to(torch.device("cpu"), torch.float32).inputs
    single = single[0][0] if isinstance(single, list) else single
    assert type(single) is type(data[0][0]) or isinstance(data[0][0], list)
    assert single.x.dtype == torch.float32


def test_packed_sequences_are_one_input_and_fields_are_several_where_the_model_takes_several() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 3)

        def forward(self, packed: Any) -> Tensor:
            hidden: Tensor = self.rnn(packed)[1][-1]
            return hidden

    packed = pack_sequence([INPUTS[:3], INPUTS[3:5], INPUTS[5:6]])
    model = Recurrent().double()
    batch = batch_of((packed, TARGETS[:3]))
    assert batch.call(model).equal(model(packed))
    assert not same_layout([batch]) and batch_of((INPUTS, packed)).examples is None
    assert batch.to(torch.device("cpu"), torch.float32).inputs.data.dtype == torch.float32

    class Two(nn.Module):
        def forward(self, x: Tensor, scale: float) -> Tensor:
            return scale * x

    class One(nn.Module):
        def forward(self, named: Any) -> Any:
            return named.scale * named.x

    for taking in (One(), Two()):
        assert batch_of((Named(INPUTS, 2.0), TARGETS)).call(taking).equal(2 * INPUTS)
    words = batch_of((Words(x=INPUTS, scale=2.0), TARGETS))  # type: ignore[arg-type]
    assert words.call(Two()).equal(2 * INPUTS)


def test_what_cannot_be_looked_into_is_neither_resumed_nor_compared(tmp_path: Any) -> None:
    class Locked:
        def __init__(self, x: Tensor) -> None:
            self.x, self.lock = x, threading.Lock()

    class Model(nn.Linear):
        def forward(self, inputs: Any) -> Tensor:
            return super().forward(inputs.x)

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            yield from data

    data = [(Locked(INPUTS), TARGETS)]
    start, end = ends(lambda: Model(4, 3))
    line = ls.Line(start, end)
    assert np.isfinite(ls.profile(start, line, data, alphas=3, progress=False).loss).all()
    with pytest.raises(ValueError, match=r"(?s)recognised, for partial=.*_thread\.lock.*Leave partial= out"):
        ls.profile(start, line, data, alphas=3, partial=tmp_path / "p", progress=False)
    with pytest.raises(ls.NotRepeatable, match=r"(?s)can be compared.*_thread\.lock.*list\(data\)"):
        Reader(Loader())
    with pytest.raises(TypeError, match=r"got: Locked\.\ntry: Pair them"):
        batch_of(data[0][0])
    with pytest.raises(TypeError, match=r"Pair each with its targets: \(batch, batch\.y\)"):
        batch_of(type("Graph", (), {"y": TARGETS})())


class OneBuffer:
    """Yields the same memory again and again; `also` alters it after the last batch, or from pass to pass."""

    def __init__(self, also: str = "") -> None:
        self.x, self.y, self.also, self.passes = torch.empty(5, 4).double(), torch.empty(5).long(), also, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for x, y in batches(INPUTS, TARGETS):
            self.x.copy_(x)
            self.y.copy_(y)
            if self.also == "noise":
                self.x += self.passes
            if self.also == "later noise" and self.passes > 2:
                self.x += 1
            if self.also == "objects":
                yield Attributes(self.x[:]), self.y
            else:
                yield (self.x.numpy() if self.also == "numpy" else self.x[:]), self.y
        self.x.zero_()


class ListOfOneBuffer(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(OneBuffer())


@pytest.mark.parametrize(
    "loader",
    [OneBuffer(), OneBuffer("objects"), OneBuffer("numpy"), ListOfOneBuffer()],
    ids=["tensor", "objects", "numpy", "list"],
)
@pytest.mark.parametrize("chunk_bytes", [1, 400, 1 << 30])
def test_loaders_may_fill_one_buffer_again(loader: Any, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    reader = Reader(loader)
    for _ in range(2):
        found = [batch for chunk in reader.chunks() for batch in chunk]
        rows = [getattr(batch.inputs, "x", batch.inputs) for batch in found]
        assert torch.cat([torch.as_tensor(each) for each in rows]).equal(INPUTS)
        assert torch.cat([batch.targets for batch in found]).equal(TARGETS)


def test_a_buffer_that_differs_from_pass_to_pass_is_not_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ls.NotRepeatable, match="a different batch 0 on a later pass"):
        Reader(OneBuffer("noise"))
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 400)
    reader = Reader(OneBuffer("later noise"))  # from the third pass on
    with pytest.raises(ls.NotRepeatable, match="a different batch 0 on a later pass"):
        list(reader.batches())


def test_a_list_may_hold_one_tensor_many_times() -> None:
    reader = Reader([(INPUTS, TARGETS)] * 3)
    assert [batch.inputs is INPUTS for batch in reader.batches()] == [True] * 3
