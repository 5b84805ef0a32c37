"""Small networks of transformers from configurations, in folders with a tokenizer; plain loops over a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WORDS = ("[UNK]", "the", "a", "cat", "dog", "ran", "sat", "on", "mat", ".")
TEXT = " ".join(WORDS[1 + (7 * i + i // 3) % 9] for i in range(150))
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Of encoder–decoders.
PAIR = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def built(name: str, config: str, settings: dict[str, Any], seed: int = 0, spread: float = 0.0) -> Any:
    """A network in evaluation mode; `spread` is the deviation of what is added to its weights."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, name)(getattr(transformers, config)(**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return model.eval()


def llama(seed: int = 0, **settings: Any) -> Any:
    return built("LlamaForCausalLM", "LlamaConfig", SIZES | {"tie_word_embeddings": True} | settings, seed, 0.1)


def saved(model: Any, folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """The folder of a network with a tokenizer of whole words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="[UNK]").save_pretrained(folder)
    return folder


def nll_of_a_token(model: nn.Module, ids: list[int], length: int) -> float:
    """The mean over all predicted tokens of blocks of a text, block by block, in float64."""
    total, count = 0.0, 0
    for first in range(0, len(ids) - 1, length):
        block = torch.tensor(ids[first : first + length])[None]
        if block.shape[1] < 2:
            continue
        with torch.no_grad():
            logits = model(input_ids=block).logits[0, :-1].double()
        total += float(F.cross_entropy(logits, block[0, 1:], reduction="sum"))
        count += block.shape[1] - 1
    return total / count
