"""Many forward passes of one module at different α, block by block together: each block's ends are read once for all.

Each pass has a thread of its own and waits where the module calls a block, such as a layer of a Transformer. One thread
at a time runs. The blocks themselves are called by the thread that asked for the passes, one pass after the other, with
the block's tensors at the pass's α; what lies between them is computed by the pass's own thread, on one core.
"""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks import forward_ad, nested
from lerpscape.networks.deferred import Deferred
from lerpscape.networks.lending import Lender
from lerpscape.networks.undisturbed import forward_mode, seed
from lerpscape.paths.checkpoints import continuous
from lerpscape.paths.line import Line

# A member of a list with a larger share of all weights is divided further, where it holds lists itself.
LARGEST_SHARE = 0.25
# The stack of a thread: a page is used when it is first written to.
STACK_BYTES = 4 << 20


class NotInLockstep(Exception):
    """Passes of this module influence each other when they take turns; says how."""


class _Ended(BaseException):
    """Thrown into a pass that waits, to end its thread."""


@dataclass(eq=False)
class Pass:
    """One forward pass at an α, with its derivative where asked for: `call` is all that its thread does.

    `call` is given a function that has another one called by the main thread.
    """

    alpha: float
    derivative: bool
    call: Callable[[Callable[[Callable[[], Any]], Any]], None]
    error: BaseException | None = None
    request: Any = None
    _thread: threading.Thread | None = None
    _told: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    _heard: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def begin(self) -> None:
        """Run until the first request, or the end."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()
        self._wait()

    def go_on(self, result: list[Any], error: BaseException | None = None) -> None:
        """Answer the request by the one item of `result`, and run until the next request, or the end."""
        self._told.put((result, error))  # first: after an interrupt in between, `stop` still ends the thread
        self.request = None
        self._wait()

    def ask(self, request: Any) -> Any:
        """For use in the pass's own thread: wait for an answer."""
        self._heard.put(request)
        del request
        result, error = self._told.get()
        if error is not None:
            raise error
        return result.pop()  # held by nobody else

    def stop(self) -> None:
        """End the thread, wherever it is."""
        while self._thread is not None:
            if self.request is None:
                self._wait()
            else:
                self.go_on([], _Ended())

    def _wait(self) -> None:
        self.request = self._heard.get()
        if self.request is None:
            assert self._thread is not None
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            if "OpenMP" in torch.__config__.parallel_info():
                torch.set_num_threads(1)  # else each thread would keep a team of its own
            with torch.no_grad():
                self.call(lambda function: self.ask(_Call(None, function)))
        except BaseException as error:
            self.error = error
        finally:
            self._heard.put(None)


class _Call:
    """A function that a pass wants called with the tensors of a block, or at once where `block` is None."""

    def __init__(self, block: str | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.block = block
        self._function, self._args, self._kwargs = function, args, kwargs
        self._context = contextvars.copy_context()
        self._gradients = torch.is_grad_enabled()
        kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        self._autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds]

    def __call__(self) -> Any:
        """Call it, as if it were called by the pass."""
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self._gradients))
            for kind, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype))
            return self._context.run(self._function, *self._args, **self._kwargs)

    def bytes(self) -> int:
        """Bytes of what it is called with."""
        return sum(nested.byte_count(leaf) for leaf in nested.leaves((self._args, self._kwargs)))


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a module that are called one after the other, by name: members of lists, else leaves with tensors.

    >>> model = nn.Sequential(nn.Embedding(4, 2), nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)]))
    >>> list(blocks(model))
    ['0', '1.0', '1.1']
    """
    total = sum(each.numel() for each in model.parameters())
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, name: str, member: bool) -> None:
        size = sum(each.numel() for each in module.parameters())
        holds_list = any(isinstance(each, nn.ModuleList) for each in module.modules())
        can_be_called = type(module).forward is not nn.Module.forward  # a list of modules cannot
        owns = any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
        whole = (member and not (holds_list and size > LARGEST_SHARE * total)) or (owns and not holds_list and name)
        if can_be_called and any(True for _ in module.parameters()) and whole:
            if module not in found.values():
                found[name] = module
            return
        for key, child in module.named_children():
            visit(child, f"{name}.{key}" if name else key, not can_be_called)

    visit(model, "", False)
    return found


class Lockstep:
    """Runs passes of a module on a line together; `blocks` are those in which they take turns.

    What the module uses outside its blocks, or in several of them, is read once and kept until the passes are over.
    """

    def __init__(self, on_path: ModelOnPath) -> None:
        assert isinstance(on_path.path, Line)
        self._on_path, self._line = on_path, on_path.path
        self.blocks = blocks(on_path.model)
        names = dict(on_path.model.named_parameters()) | dict(on_path.model.named_buffers())
        by_id = {id(tensor): name for name, tensor in names.items()}
        self._names: dict[str, dict[str, str]] = {}  # of each block: the model's name of a tensor, by the block's own
        owners: Counter[str] = Counter()
        for block, module in self.blocks.items():
            own = {key: by_id[id(each)] for key, each in (*module.named_parameters(), *module.named_buffers())}
            self._names[block] = {key: name for key, name in own.items() if name in on_path.known}
            owners.update(set(self._names[block].values()))
        self._shared = {name for name, count in owners.items() if count > 1}
        self._trained = {name for name, parameter in on_path.model.named_parameters() if parameter.requires_grad}
        self._kept: dict[str, _Ends] = {}
        self._running: Pass | None = None
        self._threads = torch.get_num_threads()

    def run(self, passes: list[Pass], more: Callable[[int], list[Pass]], told: Callable[[float], object]) -> None:
        """Carry passes out.

        `more` is told how many bytes the first pass holds while it waits, and gives further passes to carry out with
        them. `told` is called with the share of the work that was done since.

        Raises what a pass raises, and `NotInLockstep` for a module that keeps something while it waits, or draws random
        numbers.
        """
        on_path = self._on_path
        self._threads, stack_size = torch.get_num_threads(), threading.stack_size(STACK_BYTES)
        seed(on_path.device)
        before = torch.default_generator.get_state()
        constants = {name: tensor.clone() for name, tensor in on_path.constants.items()}
        begun: list[Pass] = []
        try:
            with ExitStack() as stack:
                if any(each.derivative for each in passes):
                    stack.enter_context(forward_mode(on_path.model))
                    stack.enter_context(forward_ad.level())
                stack.enter_context(self._taking_turns())
                stand_ins = {name: self._stand_in(name) for name in on_path.known}
                stack.enter_context(on_path.lender.lend(stand_ins | constants))
                stack.callback(self._stop, begun)
                self._carry_out(passes, begun, more, told)
        finally:
            self._kept.clear()
            threading.stack_size(stack_size)
            torch.set_num_threads(self._threads)
        if on_path.lender.changed:
            raise NotInLockstep(f"its forward changes {on_path.lender.changed}")
        if not before.equal(torch.default_generator.get_state()):
            raise NotInLockstep("it draws random numbers")

    def _carry_out(
        self, passes: list[Pass], begun: list[Pass], more: Callable[[int], list[Pass]], told: Callable[[float], object]
    ) -> None:
        changed = self._on_path.lender.watch()
        self._begin(passes, begun)
        alone = True
        while waiting := [each for each in begun if each.request is not None]:
            if changed():
                raise NotInLockstep(f"its forward changes {changed()} while it runs")
            block, _ = Counter(each.request.block for each in waiting).most_common(1)[0]
            ends = {name: self._ends(name, keep=name in self._shared) for name in self._names[block].values()}
            lender = Lender(self.blocks[block])
            turn = [each for each in waiting if each.request.block == block]
            if alone:
                alone = False
                self._turn(block, turn[:1], ends, lender)
                held = 0 if turn[0].request is None else turn[0].request.bytes()
                self._begin(more(held), begun)
                turn = turn[1:] + [each for each in begun[len(passes) :] if each.request is not None]
                turn = [each for each in turn if each.request.block == block]
            self._turn(block, turn, ends, lender)
            del ends, lender  # before the next block is read
            told(1 / len(self.blocks))

    def _begin(self, passes: list[Pass], begun: list[Pass]) -> None:
        for each in passes:
            begun.append(each)
            self._running = each
            each.begin()
            torch.set_num_threads(self._threads)  # which the new thread has set for itself, and for some libraries
            self._answer(each)

    def _turn(self, block: str, passes: list[Pass], ends: Mapping[str, _Ends], lender: Lender) -> None:
        """Call a block for each of these passes, which wait for it."""
        together: dict[tuple[float, bool], list[Pass]] = {}
        for each in passes:
            together.setdefault((each.alpha, each.derivative), []).append(each)
        for (alpha, derivative), some in together.items():
            tensors = {key: self._at(name, ends[name], alpha, derivative) for key, name in self._names[block].items()}
            for each in some:
                self._running = each
                try:
                    with lender.lend(tensors):
                        result, error = each.request(), None
                except Exception as raised:
                    result, error = None, raised
                if lender.changed:
                    raise NotInLockstep(f"its block {block!r} changes {lender.changed}")
                each.go_on([result], error)
                result = error = None
                self._answer(each)
            del tensors  # before the next ones are made

    def _answer(self, each: Pass) -> None:
        """Call what the pass wants called at once."""
        while each.request is not None and each.request.block is None:
            try:
                result, error = each.request(), None
            except Exception as raised:
                result, error = None, raised
            each.go_on([result], error)
        if each.error is not None:
            raise each.error

    def _stop(self, begun: list[Pass]) -> None:
        for each in begun:
            self._running = each
            each.stop()
        self._running = None

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Blocks that are called by the thread of a pass wait for their turn."""
        main = threading.get_ident()

        def waiting(block: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            def wait(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() == main:
                    return forward(*args, **kwargs)
                assert self._running is not None
                return self._running.ask(_Call(block, forward, *args, **kwargs))

            return wait

        with ExitStack() as stack:
            for name, block in self.blocks.items():
                attributes = vars(block)
                stack.callback(
                    attributes.__setitem__ if "forward" in attributes else attributes.pop,
                    "forward",
                    attributes.get("forward"),
                )
                attributes["forward"] = waiting(name, block.forward)
            yield

    def _stand_in(self, name: str) -> Deferred:
        """What the module holds in place of a tensor: computed for the pass that runs, where no block's turn has it."""

        def outside() -> Tensor:
            assert self._running is not None
            with torch.no_grad():
                return self._at(name, self._ends(name, keep=True), self._running.alpha, self._running.derivative)

        like = self._line.start.tensors[self._on_path.known[name]]
        dtype = self._on_path.dtype_of(name, like)
        return Deferred.of(outside, ("lockstep", name), like.shape, dtype, like.device)

    def _ends(self, name: str, *, keep: bool) -> _Ends:
        if name in self._kept:
            return self._kept[name]
        ends = _Ends(*self._line.ends_of(self._on_path.known[name]))
        if keep:
            self._kept[name] = ends
        return ends

    def _at(self, name: str, ends: _Ends, alpha: float, derivative: bool) -> Tensor:
        """A tensor of the module at α, in memory of its own."""
        value = self._on_path.cast(name, self._line.between_ends((ends.start, ends.end), alpha))
        value = value.clone() if value is ends.start or value is ends.end else value
        if name in self._trained:
            value = value.requires_grad_()
        if derivative and ends.start is not ends.end and continuous(value):
            value = forward_ad.dual(value, self._on_path.cast(name, ends.change))
        return value


class _Ends:
    """A tensor at both ends, one object where it does not move."""

    def __init__(self, start: Tensor, end: Tensor) -> None:
        self.start, self.end = start, end

    @cached_property
    def change(self) -> Tensor:
        return self.end - self.start
