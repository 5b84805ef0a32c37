from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from cases import seeded, variants
from matplotlib.figure import Figure
from torch import nn

import lerpscape as ls
from lerpscape.plots.number_tables import GAUSS_MEANINGS, MEANINGS, number_rows
from lerpscape.plots.profiles import plot_accuracy, plot_derivative
from lerpscape.plots.report import Section
from lerpscape.plots.style import INK, as_svg, save_figure

matplotlib.use("agg")
VARIANTS = [each for each in variants() if not each[1].batch_norm or each[0] == "cnn-recalibrate"]


def humps(label: str = "train", *, end: float = 1.0, nan: bool = False) -> ls.Profile:
    """L(α) rises from 0 to 1 at the middle and falls again, for a one-parameter network."""
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": -torch.ones(1, 1).double()}, {"weight": torch.full((1, 1), end, dtype=torch.float64)})
    x = torch.ones(6, 1).double()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        values = (outputs * targets).squeeze(1)
        return values.log() if nan else 1 - values**2

    return ls.profile(model, line, [(x, x)], loss=loss, alphas=21, label=label)


class Parsed(HTMLParser):
    """Every tag closed, every address noted."""

    void = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(path: Path) -> Parsed:
    page = Parsed()
    page.feed(path.read_text())
    assert page.open == []
    return page


def test_a_report_stands_alone_and_says_what_was_measured(tmp_path: Path) -> None:
    train, held_out = humps(), humps("held-out")
    path = ls.report([train, held_out], tmp_path / "deep" / "report.html", title="two humps", tolerance=0.25)
    page = parsed(path)
    assert all(address.startswith("#") for address in page.addresses)
    text = path.read_text()
    for outside in ("http://", "https://", "@import", "url("):
        for found in re.findall(rf"{re.escape(outside)}[^\"'\s)]*", text):
            assert found.startswith(("http://www.w3.org/", "url(#")), found  # names of XML, places in the page
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert text.count("<svg") == 1  # one path, one picture
    for words in ("two humps", "tolerance 0.25", train.verdict(0.25), "held-out", "torch " + torch.__version__):
        assert words in page.text
    for name, values, _, meaning in number_rows([train, held_out]):
        assert name in page.text
        assert meaning in page.text
        assert all(value in page.text for value in values)
    assert str(train.how["data_digest"]) in page.text


def test_numbers_in_the_table_are_the_profiles(tmp_path: Path) -> None:
    train = humps()
    rows = {name: (values, unit) for name, values, unit, _ in number_rows([train])}
    assert rows["max_rise"] == (["1"], "")
    assert rows["examples"][0] == ["6"]
    assert float(rows["distance"][0][0]) == train.distance == 2
    assert rows["rises"][0] == [str(len(train.rises))]
    assert rows["area"][0] == ["undefined"]
    assert set(rows) <= set(MEANINGS)
    assert {"barrier_mean", "local_convexity", "plateau_0.05"} <= set(rows)


def test_the_report_shows_every_reading_with_its_user(tmp_path: Path) -> None:
    train = humps()
    page = parsed(ls.report([train], tmp_path / "r.html", tolerance=0.25))
    found = train.readings(0.25)
    for reading in found:
        assert reading.name in page.text
        assert reading.source in page.text
        assert reading.formula in page.text
    assert all(sentence in page.text for sentence in found.sentences())


def test_names_with_markup_are_shown_and_not_run(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> $x$ & _{"
    path = ls.report(
        [humps(evil), Section(title=evil, words=evil, caption=evil, figure=Figure())], tmp_path / "r.html", title=evil
    )
    assert "<script" not in path.read_text()
    assert evil in parsed(path).text


def test_paths_have_a_section_each_and_sections_stay(tmp_path: Path) -> None:
    other = humps(end=1.5)
    items = [humps(), other, humps("held-out"), Section("why", "words", (other,))]
    path = ls.report(items, tmp_path / "r.html")
    assert path.read_text().count("<h2>") == 3
    assert path.read_text().count("<svg") == 3


def test_a_gauss_length_shares_the_section_of_its_line(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    line = ls.Line(seeded(lambda: deepcopy(model), 0), {name: t + 0.5 for name, t in model.state_dict().items()})
    data = [(torch.eye(2).double(), torch.tensor([0, 1]))]
    turn = ls.gauss_length(model, line, data)
    path = ls.report([ls.profile(model, line, data), turn], tmp_path / "r.html")
    text = parsed(path).text
    assert path.read_text().count("<h2>") == 1
    assert path.read_text().count("<svg") == 2
    assert "math" not in path.read_text()[path.read_text().index("<svg") :]  # no unset formulas on any axis
    assert turn.summary in text
    assert f"{turn.mean:.4g}" in text
    assert all(meaning in text for _, meaning in GAUSS_MEANINGS.values())


def test_a_curve_with_nan_is_reported_without_a_verdict(tmp_path: Path) -> None:
    text = parsed(ls.report([humps(nan=True)], tmp_path / "r.html")).text
    assert "No verdict: the loss is NaN" in text
    assert "max_rise" not in text


def test_nothing_to_report_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one result"):
        ls.report([], tmp_path / "r.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="to be writable"):
        ls.report([humps()], tmp_path / "file" / "r.html")


@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=[name for name, _, _ in VARIANTS])
def test_every_case_has_a_report_and_a_notebook_view(name: str, case: Any, policy: Any, tmp_path: Path) -> None:
    start, end = case.ends()
    found = ls.profile(start, ls.Line(start, end), case.data(), loss=case.loss, batch_norm=policy, alphas=4)
    parsed(ls.report([found], tmp_path / "r.html"))
    view = found._repr_html_()
    assert view.startswith("<figure><svg")
    ET.fromstring(view[len("<figure>") : view.index("</svg>") + len("</svg>")])  # well-formed


def test_pictures_show_every_curve_rise_and_invalid_point() -> None:
    train, held_out = humps(), humps("held-out")
    ax = train.plot(Figure().subplots(), beside=[held_out])
    assert [line.get_label() for line in ax.get_lines()[:2]] == ["train", "held-out"]
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), train.loss)
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (train.rises[0].opens, train.rises[0].closes)
    broken = humps(nan=True).plot(Figure().subplots())
    assert "NaN or infinite" in [text.get_text() for text in broken.get_legend().get_texts()]
    assert plot_accuracy([train], ax) is None
    slopes = plot_derivative([train], Figure().subplots())
    np.testing.assert_array_equal(slopes.get_lines()[0].get_ydata(), train.derivative)


def test_the_longest_legends_leave_room_for_the_curves() -> None:
    """matplotlib gives up its layout, with a warning, where a legend is wider than the figure."""
    train, held_out = humps("train"), humps("held-out")
    hidden = replace(train, derivative=np.full(21, 0.5))
    assert hidden.hidden_rises
    as_svg(hidden.figure(beside=[held_out, humps("NaN", nan=True)]))
    edges = np.linspace(0, 1, 4)
    bounds = {"loss_low": edges, "loss_high": edges, "slope_low": np.ones((3, 2)), "slope_high": np.ones((3, 2))}
    proof = ls.Certificate(
        **{"lower": 0.0, "upper": 1.0, "verdict": "undecided", "tolerance": 0.0, "stopped": "budget", "lowest": 0.0},
        **{"highest": 1.0, "edges": edges, "rise": np.ones(3), "direction": ("falling", "rising", "undecided")},
        **{"evaluations": 3, "examples": 1, "unit": "nats", "loss_name": "x", "how": {}, **bounds},
        **{"accuracy_low": None, "accuracy_high": None},
    )
    as_svg(proof.figure())


def test_plot_without_axes_makes_a_figure_and_changes_no_setting() -> None:
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    ax = humps().plot()
    assert ax.get_xlabel().startswith("α")
    assert dict(matplotlib.rcParams) == before
    plt.close(ax.figure)


def test_svg_takes_the_colour_of_the_page_and_is_reproducible() -> None:
    first, second = (as_svg(humps().figure()) for _ in range(2))
    assert first == second
    assert INK not in first
    assert "currentColor" in first
    assert first.startswith("<svg")
    with pytest.raises(TypeError, match="Figure"):
        as_svg("no figure")


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_figures_are_written_in_the_format_of_their_ending(ending: str, tmp_path: Path) -> None:
    save_figure(humps().figure(), str(tmp_path / f"p.{ending}"))
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert (tmp_path / f"p.{ending}").read_bytes().startswith(start)
