from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import lerpscape as ls
from lerpscape.cli.main import main
from lerpscape.lab import demo as lab
from lerpscape.lab.data.digits import digits, held_out_data, train_data


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> lab.Demo:
    return lab.run_demo(tmp_path_factory.mktemp("demo") / "lerpscape-demo", progress=False)


def test_digits_are_split_once_and_in_order() -> None:
    found = digits()
    images, labels = found.train.batch(slice(None))
    assert (len(found.train), len(found.test)) == (1437, 360)
    assert torch.equal(torch.cat([x for x, _ in train_data()]), images.flatten(1))
    assert found.test.targets is not None
    assert torch.equal(torch.cat([y for _, y in held_out_data()]), found.test.targets)
    assert images.min() == 0
    assert images.max() == 1
    assert sorted(set(labels.tolist())) == list(range(10))


def test_max_rise_grows_with_the_norm_target_in_every_seed(demo: lab.Demo) -> None:
    """No rise without a norm target; with a large one, a rise in every seed that grows with the target."""
    for radius in (0.0, 10.0):
        assert max(demo.rises[radius]) <= lab.TOLERANCE
    for radius in (20.0, 30.0, 40.0):
        assert min(demo.rises[radius]) > lab.TOLERANCE
    for seed in range(len(lab.SEEDS)):
        pushed = [demo.rises[radius][seed] for radius in (20.0, 30.0, 40.0)]
        assert pushed == sorted(pushed)


def test_the_plain_network_is_monotonic_and_the_pushed_one_is_not(demo: lab.Demo) -> None:
    plain, pushed = demo.profiles["plain"], demo.profiles["pushed"]
    assert all(each.is_monotonic(lab.TOLERANCE) for each in plain)
    assert not any(each.is_monotonic(lab.TOLERANCE) for each in pushed)
    assert plain[0].loss[0] == pushed[0].loss[0]  # the same initialisation
    assert plain[0].accuracy is not None
    assert min(plain[0].accuracy[-1], pushed[0].accuracy[-1]) > 0.98  # both have learnt
    text = demo.report.read_text()
    for each in (*plain, *pushed):
        assert each.verdict(lab.TOLERANCE) in text.replace("&#39;", "'")
    assert text.count("<svg") == 5  # curves and proofs of both, and the knob
    assert "norm target R" in text


def test_certificates_agree_with_the_profiles(demo: lab.Demo) -> None:
    """Bounds on the training loss over all α contain the measured losses."""
    plain, pushed = demo.certificates["plain"], demo.certificates["pushed"]
    assert (plain.verdict, pushed.verdict) == ("monotonic", "violated")
    assert plain.upper <= lab.TOLERANCE < pushed.lower
    for name, proof in demo.certificates.items():
        measured = demo.profiles[name][0]
        low, high = proof.loss_bounds(measured.alphas)
        # The profile computes in float32: 1e-6 is its rounding.
        assert (low - 1e-6 <= measured.loss).all()
        assert (measured.loss <= high + 1e-6).all()
        assert measured.max_rise <= proof.upper + 1e-6
        assert proof.summary in demo.report.read_text()


def test_the_printed_command_measures_the_files_again_exactly(
    demo: lab.Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("plain", "pushed"):
        words = shlex.split(demo.measure_again(name))
        assert words[0] == "lerpscape"
        main([*words[1:], "--json"])
        for found, expected in zip(json.loads(capsys.readouterr().out), demo.profiles[name], strict=True):
            for key in ("alphas", "loss", "accuracy", "derivative", "covariance", "examples", "distance"):
                assert found[key] == expected.to_dict()[key], key
            saved = ls.Profile.load(demo.folder / f"{name}-{expected.label}.json")
            assert saved == expected


def test_the_command_prints_where_the_report_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EPOCHS": 1, "SEEDS": (0,), "RADII": (0.0, lab.PUSHED)}.items():
        monkeypatch.setattr(lab, name, value)
    monkeypatch.chdir(tmp_path)
    main(["demo", "--folder", "out"])
    out = capsys.readouterr().out
    assert out.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    assert len(re.findall(r"measure again: lerpscape profile out/start\.safetensors", out)) == 2
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    profiles = [f"{n}-{part}.json" for n in ("plain", "pushed") for part in ("held-out", "train", "certificate")]
    assert names == sorted([*profiles, "plain.safetensors", "pushed.safetensors", "start.safetensors", "report.html"])


def test_an_unwritable_folder_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="to be writable"):
        lab.run_demo(tmp_path / "file")
