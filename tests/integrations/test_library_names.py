"""Folders whose files have other names than the modules that transformers builds, given to `Line` as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import PAIR, SIZES, built
from safetensors.torch import load_file, save_file

import lerpscape as ls
from lerpscape.base.errors import EndpointMismatch
from lerpscape.engine.model_on_path import ModelOnPath

pytest.importorskip("transformers", reason="transformers is not installed")
PLAIN = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a tied head": ("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"tie_word_embeddings": True}),
    "a tied head of its own name": ("GPTNeoXForCausalLM", "GPTNeoXConfig", PLAIN | {"tie_word_embeddings": True}),
    "a head of another name": ("GPTNeoXForCausalLM", "GPTNeoXConfig", PLAIN),
    "layers of other names": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "two networks in one": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {"model_type": "llama", **SIZES},
            "vision_config": {"model_type": "clip_vision_model", **IMAGE},
        },
    ),
    "positions that are in no file": ("MarianMTModel", "MarianConfig", PAIR),
    "shared embeddings": ("BartForConditionalGeneration", "BartConfig", PAIR),
}


@pytest.mark.parametrize("which", FAMILIES)
def test_every_tensor_of_the_module_is_that_of_the_file(which: str, tmp_path: Path) -> None:
    start, end, model = (built(*FAMILIES[which], seed=seed) for seed in (0, 1, 2))
    start.save_pretrained(tmp_path / "start")
    end.save_pretrained(tmp_path / "end")
    wanted = dict(end.named_parameters()) | dict(end.named_buffers())
    for ends in ((tmp_path / "start", tmp_path / "end"), (tmp_path / "start", end), (start, tmp_path / "end")):
        found = ModelOnPath(model, ls.Line(*ends), None, None).at(1.0)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_what_the_library_never_reads_is_no_tensor_of_the_network(tmp_path: Path) -> None:
    """Old GPT-2 files hold masks, and have no prefix of the head's class."""
    ends = [built("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 4}, seed)
            for seed in (0, 1)]  # fmt: skip
    for number, end in enumerate(ends):
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in end.state_dict().items()}
        del tensors["lm_head.weight"]
        save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}, tmp_path / f"{number}.safetensors")
    found = ModelOnPath(ends[0], ls.Line(tmp_path / "0.safetensors", tmp_path / "1.safetensors"), None, None).at(1.0)
    assert all(torch.equal(found[name], tensor) for name, tensor in ends[1].named_parameters())


def test_a_missing_tensor_and_joined_ones_are_still_refused(tmp_path: Path) -> None:
    model = built(*FAMILIES["layers of other names"])
    for seed in (0, 1):
        built(*FAMILIES["layers of other names"], seed=seed).save_pretrained(tmp_path / str(seed))
        file = tmp_path / str(seed) / "model.safetensors"
        tensors = load_file(file)
        del tensors["classifier.weight"]
        save_file(tensors, file)
    with pytest.raises(EndpointMismatch, match=r"\['classifier.weight'\] missing from the checkpoints \(1 and 0"):
        ModelOnPath(model, ls.Line(tmp_path / "0", tmp_path / "1"), None, None)
    experts = ("MixtralForCausalLM", "MixtralConfig", SIZES | {"num_local_experts": 2})
    for seed in (0, 1):
        built(*experts, seed=seed).save_pretrained(tmp_path / f"moe{seed}")
    with pytest.raises(EndpointMismatch, match=r"gate_up_proj[\s\S]*ls.integrations.hugging_face does it"):
        ModelOnPath(built(*experts), ls.Line(tmp_path / "moe0", tmp_path / "moe1"), None, None)
