from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, variants

import lerpscape as ls
from lerpscape.base.errors import CallFailed

VARIANTS = [each for each in variants() if each[0] in ("mlp", "cnn-recalibrate", "cnn-pooled", "cnn-batch", "lstm")]


def measured(case: Any, policy: Any = None, **choices: Any) -> ls.Profile:
    start, end = case.ends()
    choices = {"alphas": 5, "loss": case.loss, "batch_norm": policy} | choices
    return ls.profile(start, ls.Line(start, end), case.data(), **choices)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("chunk_bytes", [300, 1 << 30])
@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=[each[0] for each in VARIANTS])
def test_several_processes_give_the_same_profile(
    name: str, case: Any, policy: Any, chunk_bytes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    seen: list[int] = []
    alone = measured(case, policy)
    shared = measured(case, policy, workers=workers, progress=lambda done, total: seen.append(done))
    # sums over the groups of one process each, in float64
    np.testing.assert_allclose(shared.loss, alone.loss, rtol=1e-14)
    np.testing.assert_allclose(shared.derivative, alone.derivative, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(shared.covariance, alone.covariance, rtol=1e-12, atol=1e-15)
    assert shared.how["workers"] == workers and shared.how["data_digest"] == alone.how["data_digest"]
    assert seen[-1] == 5 * len(case.data())


def test_adaptive_points_with_several_processes() -> None:
    alone, shared = (measured(CASES[0], alphas="adaptive", workers=workers) for workers in (1, 2))
    assert (alone.alphas == shared.alphas).all()
    np.testing.assert_allclose(shared.loss, alone.loss, rtol=1e-14)


def test_an_exception_in_a_worker_arrives_here() -> None:
    def loss(outputs: Any, targets: Any) -> Any:
        if os.getpid() != parent:
            raise LookupError("as planned")
        return outputs.square().sum(1)

    parent = os.getpid()
    with pytest.raises(CallFailed, match=r"(?s)the loss 'loss' to work on batch 0 at α = 0.*LookupError.*as planned"):
        measured(CASES[0], loss=loss, workers=2)


def test_a_worker_that_dies_is_noticed() -> None:
    def loss(outputs: Any, targets: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return outputs.square().sum(1)

    parent = os.getpid()
    with pytest.raises(RuntimeError, match=r"(?s)lives until its work is done.*without a word.*fewer workers"):
        measured(CASES[0], loss=loss, workers=2)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=r"(?s)workers=1, or more.*Use workers=1"):
        measured(CASES[0], workers=workers)


def test_stopped_and_resumed_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 1)  # every batch a chunk
    whole = measured(CASES[0], workers=2)
    file = tmp_path / "kept"

    def stop(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(CASES[0], workers=2, partial=file, progress=stop)
    seen: list[int] = []
    resumed = measured(CASES[0], workers=2, partial=file, progress=lambda done, total: seen.append(done))
    assert (resumed.loss == whole.loss).all() and (resumed.covariance == whole.covariance).all()
    assert seen[-1] == 20


def test_threads_of_the_caller_do_no_harm() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _ = torch.rand(600, 600) @ torch.rand(600, 600)  # the pool of threads exists
        shared = measured(CASES[0], workers=2)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(shared.loss, measured(CASES[0]).loss, rtol=1e-14)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason='needs pip install "lerpscape[ray]"')
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.parametrize("name", ["mlp", "cnn-pooled", "cnn-batch"])
@pytest.mark.usefixtures("local_ray")
def test_ray_gives_the_same_profile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 300 if name == "mlp" else 1 << 30)
    case, policy = next((case, policy) for found, case, policy in VARIANTS if found == name)
    seen: list[int] = []
    alone = measured(case, policy)
    shared = measured(case, policy, workers="ray", progress=lambda done, total: seen.append(done))
    assert (shared.loss == alone.loss).all() and (shared.derivative == alone.derivative).all()
    assert (shared.covariance == alone.covariance).all() and (shared.accuracy == alone.accuracy).all()
    assert shared.how["workers"] == "ray" and shared.how["plan"] == alone.how["plan"]
    assert seen[-1] == 5 * len(case.data())


@pytest.mark.usefixtures("local_ray")
def test_an_exception_on_ray_arrives_here() -> None:
    with pytest.raises(ValueError, match="one target in"):
        measured(CASES[0], loss="binary_cross_entropy", workers="ray", derivative=False)


def test_other_words_for_workers_are_refused() -> None:
    with pytest.raises(ValueError, match=r'(?s)or "ray", "ray://host:port".*\'rays\' on cpu'):
        measured(CASES[0], workers="rays")
