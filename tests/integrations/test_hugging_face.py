"""Two folders of transformers, or a folder and an adapter, as model and line."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused
from hf_folders import PAIR, SIZES, TEXT, WORDS, built, llama, nll_of_a_token, saved

import lerpscape as ls
from lerpscape.base.errors import EndpointMismatch
from lerpscape.cli.main import main
from lerpscape.integrations.loading import end_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
hugging_face = ls.integrations.hugging_face
IDS = [WORDS.index(word) for word in TEXT.split()]
# Of losses near 4 in float32, of sums of some hundred products each.
CLOSE = 2e-6


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    (folder / "legal.txt").write_text(TEXT)
    for seed, name in enumerate(("base", "tuned")):
        saved(llama(seed), folder / name)
    return folder


def lerped(start: Any, end: Any, alpha: float) -> Any:
    """The network at α by a loop in float64."""
    model = copy.deepcopy(start).double()
    with torch.no_grad():
        ends = zip(start.parameters(), end.parameters(), strict=True)
        for parameter, (one, other) in zip(model.parameters(), ends, strict=True):
            parameter.copy_((1 - alpha) * one.double() + alpha * other.double())
    return model


def test_the_mean_loss_of_a_token_is_that_of_a_loop(work: Path) -> None:
    """150 tokens in blocks of 16: nine of them and a shorter one."""
    pair = hugging_face(work / "base", work / "tuned")
    text = pair.text(work / "legal.txt", length=16, batch=4)
    assert (text.blocks, text.tokens, len(text)) == (10, 150, 4)
    curve = ls.profile(pair.model, pair.line, text, loss="next_token", alphas=3)
    plain = [nll_of_a_token(lerped(llama(0), llama(1), alpha), IDS, 16) for alpha in (0, 0.5, 1)]
    assert curve.loss == pytest.approx(plain, rel=CLOSE)
    assert curve.examples == 10
    assert "weighed by their number" in curve.how["example"]
    same = ls.profile(pair.model, pair.line, text, loss="model", alphas=3)
    assert same.loss == pytest.approx(plain, rel=CLOSE)


@pytest.mark.parametrize(
    ("name", "config", "settings"),
    [
        ("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"tie_word_embeddings": True}),
        ("GemmaForCausalLM", "GemmaConfig", SIZES | {"head_dim": 8}),
        ("GPTNeoXForCausalLM", "GPTNeoXConfig", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        ("MixtralForCausalLM", "MixtralConfig", SIZES | {"num_local_experts": 2}),
        ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("Config") else "",
)
@pytest.mark.filterwarnings("ignore:Unexpected warning encountered in `")
def test_both_ends_are_the_folders_whatever_their_names(
    name: str, config: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Tied heads, names of older releases, experts that files keep one by one."""
    ends = [built(name, config, settings, seed, 0.1) for seed in (0, 1)]
    pair = hugging_face(*(saved(end, tmp_path / str(i)) for i, end in enumerate(ends)))
    (tmp_path / "t.txt").write_text(TEXT)
    text = pair.text(tmp_path / "t.txt", 30)
    ids = torch.cat([batch["input_ids"].flatten() for batch in text]).tolist()  # a class may read the file its own way
    curve = ls.profile(pair.model, pair.line, text, loss="next_token", alphas=2)
    assert curve.loss == pytest.approx([nll_of_a_token(end, ids, 30) for end in ends], rel=CLOSE)


def test_a_masked_model_and_an_encoder_decoder_are_folders_too_but_take_no_text(tmp_path: Path) -> None:
    ids = torch.arange(24).view(4, 6) + 3
    for number, (name, config, settings) in enumerate(
        [
            ("BartForConditionalGeneration", "BartConfig", PAIR),
            ("BertForMaskedLM", "BertConfig", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
            ("BertLMHeadModel", "BertConfig", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        ]
    ):
        ends = [built(name, config, settings, seed, 0.1) for seed in (0, 1)]
        pair = hugging_face(*(saved(end, tmp_path / f"{number}{i}") for i, end in enumerate(ends)))
        with pytest.raises(ValueError, match=r"a causal language model.*\n.*(encoder–decoder|no causal|sees)"):
            pair.text("any.txt")
        if name == "BertLMHeadModel":
            continue
        batch = {"input_ids": ids, "labels": ids.flip(0)}
        curve = ls.profile(pair.model, pair.line, [batch], loss="model", alphas=2)
        with torch.no_grad():
            assert curve.loss == pytest.approx([float(end(**batch).loss) for end in ends], rel=CLOSE)


def test_half_precision_folders_are_computed_as_stored_or_as_asked(work: Path) -> None:
    ends = [llama(seed).bfloat16() for seed in (2, 3)]
    pair = hugging_face(*(saved(end, work / f"half{i}") for i, end in enumerate(ends)))
    assert next(pair.model.parameters()).dtype == torch.bfloat16
    text = pair.text(work / "legal.txt", 25)
    curve = ls.profile(pair.model, pair.line, text, loss="next_token", alphas=3, dtype=torch.float32)
    wide = [llama(seed) for seed in (2, 3)]  # whose frequencies of positions were never rounded
    for one, stored in zip(wide, ends, strict=True):
        one.load_state_dict(stored.state_dict())
    plain = [nll_of_a_token(lerped(*wide, alpha), IDS, 25) for alpha in (0, 0.5, 1)]
    assert curve.loss == pytest.approx(plain, rel=CLOSE)


def test_what_a_folder_lacks_is_never_drawn(work: Path) -> None:
    body = llama(0).model
    saved(body, work / "headless")
    with pytest.raises(EndpointMismatch, match=r"one class of transformers.\ngot: LlamaModel .* LlamaForCausalLM"):
        hugging_face(work / "headless", work / "tuned")
    config = json.loads((work / "headless" / "config.json").read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    (work / "headless" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EndpointMismatch, match=r"'lm_head.weight' is missing"):
        hugging_face(work / "headless", work / "headless")


@pytest.mark.parametrize("changed", [{"rope_theta": 500.0}, {"rms_norm_eps": 1e-2}, {"hidden_act": "gelu"}])
def test_configurations_that_compute_something_else_are_asked_about(work: Path, changed: dict[str, Any]) -> None:
    """The weights fit either way: with the other configuration an end would be another network."""
    if "rope_theta" in changed:
        changed = {"rope_parameters": {"rope_type": "default", **changed}}
    other = llama(1, **changed)
    folder = saved(other, work / f"other-{next(iter(changed))}")
    with pytest.raises(ValueError, match=r'expected: two configurations[\s\S]*config="start" or config="end"'):
        hugging_face(work / "base", folder)
    for which, model in (("start", llama(1)), ("end", other)):
        pair = hugging_face(work / "base", folder, config=which)  # type: ignore[arg-type]
        curve = ls.profile(pair.model, pair.line, pair.text(work / "legal.txt", 30), loss="next_token", alphas=[0, 1])
        assert curve.loss[1] == pytest.approx(nll_of_a_token(model, IDS, 30), rel=CLOSE)


def test_other_tokens_and_other_tokenizers(work: Path) -> None:
    more = saved(llama(1, vocab_size=63), work / "more")
    with pytest.raises(EndpointMismatch, match="One end has more tokens"):
        hugging_face(work / "base", more)
    turned = saved(llama(1), work / "turned", words=(WORDS[0], *reversed(WORDS[1:])))
    with pytest.raises(ValueError, match="whose tokenizers differ on"):
        hugging_face(work / "base", turned).text(work / "legal.txt")


def test_refusals_name_the_folder(work: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gpt2, which does not exist.\ntry: Nothing is fetched"):
        hugging_face("gpt2", work / "tuned")
    strange = tmp_path / "strange"
    strange.mkdir()
    own = {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}, "architectures": ["Own"]}
    (strange / "config.json").write_text(json.dumps(own))
    (strange / "code.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ValueError, match=f"expected: {re.escape(str(strange))} to be read .*without code of its own"):
        hugging_face(strange, strange)
    whole = json.loads((work / "base" / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(whole | {"architectures": ["Own"]}))
    with pytest.raises(ValueError, match=r"got: 'Own' in .*no code that comes with a folder is run"):
        hugging_face(strange, strange)
    (strange / "config.json").write_text(json.dumps(whole | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ValueError, match="whose weights are quantised"):
        hugging_face(strange, strange)
    for seed, name in enumerate(("bare", "bare2")):
        llama(seed).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="expected: a tokenizer beside the weights"):
        hugging_face(tmp_path / "bare", tmp_path / "bare2").text(work / "legal.txt")


def test_the_command_line_profiles_a_text(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    (work / "news.txt").write_text(" ".join(TEXT.split()[::-1]))
    words = ["profile", "base/", "tuned/", "--text", "legal.txt", "--block", "30", "--alphas", "3"]
    main([*words, "--held-out", "news.txt", "--report", "r.html", "--json"])
    legal, news = json.loads(capsys.readouterr().out)
    assert (legal["label"], news["label"], legal["loss_name"]) == ("legal", "news", "next_token")
    ends = [llama(0), llama(1)]
    assert [legal["loss"][i] for i in (0, -1)] == pytest.approx([nll_of_a_token(e, IDS, 30) for e in ends], rel=CLOSE)
    assert [news["loss"][i] for i in (0, -1)] == pytest.approx(
        [nll_of_a_token(e, IDS[::-1], 30) for e in ends], rel=CLOSE
    )
    assert "legal" in (work / "r.html").read_text()
    main(words)
    best = min(range(3), key=legal["loss"].__getitem__)
    assert f"lowest {math.exp(legal['loss'][best]):.4g} at α = {legal['alphas'][best]:.4g}" in capsys.readouterr().out
    assert "base/ and tuned/ with neither" in refused(["profile", "base/", "tuned/"], capsys)
    assert "with --model and --text" in refused([*words, "--model", "nets:build"], capsys)
    assert "nowhere/ and tuned/ with --text" in refused(
        ["profile", "nowhere/", "tuned/", "--text", "legal.txt"], capsys
    )
    assert "none.txt, which does not exist" in refused(["profile", "base/", "tuned/", "--text", "none.txt"], capsys)


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    code = "import sys, lerpscape as ls; ls.integrations; ls.Line; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_perplexity_is_that_of_transformers_own_loss(work: Path) -> None:
    """exp of the mean of a token, over blocks of one length: the recipe of transformers' run_clm."""
    pair = hugging_face(work / "base", work / "tuned")
    text = pair.text(work / "legal.txt", length=15)
    curve = ls.profile(pair.model, pair.line, text, loss="next_token", alphas=2)
    model, blocks = llama(1), torch.tensor(IDS).view(10, 15)
    with torch.no_grad():
        own = math.exp(float(model(input_ids=blocks, labels=blocks).loss))
    assert math.exp(curve.loss[1]) == pytest.approx(own, rel=1e-5)


def test_the_ends_that_a_path_stands_for(work: Path) -> None:
    assert str(end_of(work / "base")) == str(work / "base")
    with pytest.raises(FileNotFoundError, match="an adapter's folder on this machine, with its adapter_config"):
        end_of(f"{work}/base/+{work}/tuned")
