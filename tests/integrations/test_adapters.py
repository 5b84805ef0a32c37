"""A folder with an adapter of peft as an end: merged, or in its own numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import TEXT, WORDS, llama, nll_of_a_token, saved

import lerpscape as ls

pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # of peft's own calls
    pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"),
]
hugging_face = ls.integrations.hugging_face
IDS = [WORDS.index(word) for word in TEXT.split()]
CLOSE = 2e-6  # float32 losses near 4
LAYERS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
CHANGES = {
    "lora": lambda: peft.LoraConfig(r=4, init_lora_weights=False, **LAYERS),
    "scaled": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, init_lora_weights=False, **LAYERS),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, init_lora_weights=False, **LAYERS),
    "head too": lambda: peft.LoraConfig(r=4, init_lora_weights=False, modules_to_save=["norm"], **LAYERS),
    "ia3": lambda: peft.IA3Config(feedforward_modules=["down_proj"], init_ia3_weights=False, **LAYERS),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "legal.txt").write_text(TEXT)
    saved(llama(0), folder / "base")
    return folder


def adapted(config: Any, folder: Path, seed: int = 0) -> Any:
    """The base network with an adapter of drawn numbers, which is saved."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = peft.get_peft_model(llama(0), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "modules_to_save" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def measured(base: Path, start: str, end: str, **options: Any) -> Any:
    pair = hugging_face(start, end, **options)
    text = pair.text(base / "legal.txt", 30)
    return ls.profile(pair.model, pair.line, text, loss="next_token", alphas=3, derivative=False).loss


@pytest.mark.parametrize("kind", CHANGES)
def test_the_end_is_the_network_with_its_adapter(kind: str, base: Path) -> None:
    model = adapted(CHANGES[kind](), base / kind)
    losses = measured(base, f"{base}/base", f"{base}/base/+{base}/{kind}")
    assert losses[0] == pytest.approx(nll_of_a_token(llama(0), IDS, 30), rel=CLOSE)
    assert losses[2] == pytest.approx(nll_of_a_token(model, IDS, 30), rel=CLOSE)


@pytest.mark.parametrize("kind", ["lora", "scaled"])
def test_halfway_to_a_lora_is_the_adapter_at_half_its_scale(kind: str, base: Path) -> None:
    model = adapted(CHANGES[kind](), base / f"{kind} scaled")
    for layer in model.modules():
        if isinstance(getattr(layer, "scaling", None), dict):
            layer.scaling["default"] /= 2
    losses = measured(base, f"{base}/base", f"{base}/base/+{base}/{kind} scaled")
    assert losses[1] == pytest.approx(nll_of_a_token(model, IDS, 30), rel=CLOSE)


@pytest.mark.parametrize("kind", ["lora", "dora", "prefix"])
def test_without_merging_the_adapters_own_numbers_move(kind: str, base: Path) -> None:
    prefix = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    config = prefix if kind == "prefix" else CHANGES[kind]()
    ends = [adapted(copy.deepcopy(config), base / f"{kind}{seed}", seed) for seed in (0, 1)]
    words = [f"{base}/base/+{base}/{kind}{seed}" for seed in (0, 1)]
    losses = measured(base, *words, merge=False)
    middle = copy.deepcopy(ends[0])
    with torch.no_grad():
        for one, other in zip(middle.parameters(), ends[1].parameters(), strict=True):
            one.add_(other).div_(2)
    plain = [nll_of_a_token(model, IDS, 30) for model in (ends[0], middle, ends[1])]
    assert losses == pytest.approx(plain, rel=CLOSE)


def test_what_has_no_line_is_refused(base: Path) -> None:
    for name, config in (
        ("one prefix", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
        ("one prompt", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
        ("small", peft.LoraConfig(r=2, **LAYERS)),
        ("large", peft.LoraConfig(r=8, **LAYERS)),
    ):
        adapted(config, base / name)
    for name in ("one prefix", "one prompt"):
        with pytest.raises(ValueError, match="no network with half of it"):
            hugging_face(f"{base}/base", f"{base}/base/+{base}/{name}")
    with pytest.raises(ValueError, match=r"different (lora_alpha|r) in"):
        hugging_face(f"{base}/base/+{base}/small", f"{base}/base/+{base}/large", merge=False)
    with pytest.raises(ValueError, match="two adapters of one model"):
        hugging_face(f"{base}/base", f"{base}/base/+{base}/large", merge=False)
    with pytest.raises(ValueError, match=r"an adapter, which has only what was added[\s\S]*base/\+"):
        hugging_face(f"{base}/base", f"{base}/small")


def test_an_adapter_that_lacks_tensors_is_refused(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(CHANGES["lora"](), base / "cut")
    file = base / "cut" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(iter(tensors))]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="missing adapter keys"):
        hugging_face(f"{base}/base", f"{base}/base/+{base}/cut")
