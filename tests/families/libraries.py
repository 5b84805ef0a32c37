"""Models of transformers, peft and torch_geometric, built from tiny configurations; each module is imported late."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from families.family import Family, integers, normal
from families.images import Losses, no_slope

VOCABULARY = 31
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model_of(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of transformers, by the names of its class and of its configuration."""

    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        made: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**options))
        return made.eval()

    return build


def adapted(build: Callable[[], nn.Module], method: str, **options: Any) -> Callable[[], nn.Module]:
    """A model with an adapter of peft."""

    def made() -> nn.Module:
        import peft

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = peft.get_peft_model(build(), getattr(peft, method)(**options))  # type: ignore[arg-type]
        return model.eval()

    return made


def sentences(length: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens with padding at the right, and where there is none."""
    lengths = torch.tensor([6, 4, 5, 3, 6])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return integers(5, length, below=VOCABULARY, seed=seed, least=3) * mask, mask


def texts() -> list[dict[str, Tensor]]:
    """Batches for causal language models, whose labels are the tokens."""
    ids, mask = sentences()
    labels = torch.where(mask.bool(), ids, -100)
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(3), mask.split(3), labels.split(3), strict=True)
    ]


def next_tokens(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    """The mean over all tokens after the first, those of padding aside."""
    logits = model(input_ids=item["input_ids"], attention_mask=item["attention_mask"]).logits
    labels = item["labels"][:, 1:]
    logits = logits[:, -item["labels"].shape[1] :]
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    kept = (labels != -100).sum(1)
    return each.sum(1) / kept, kept.double()


def filled() -> list[dict[str, Tensor]]:
    """Batches for masked language models: a few tokens are to be filled in."""
    ids, mask = sentences()
    labels = torch.where(integers(5, 6, below=2, seed=7).bool() & mask.bool(), ids, -100)
    labels[:, 1] = ids[:, 1]
    ids = torch.where(labels != -100, 3, ids)
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(3), mask.split(3), labels.split(3), strict=True)
    ]


def fillings(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    logits = model(input_ids=item["input_ids"], attention_mask=item["attention_mask"]).logits
    each = F.cross_entropy(logits.transpose(1, 2), item["labels"], reduction="none")
    return each.sum(1) / (item["labels"] != -100).sum(1), None


def labelled() -> list[dict[str, Tensor]]:
    ids, mask = sentences()
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(3), mask.split(3), integers(5, below=2).split(3), strict=True)
    ]


def classes(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    inputs = {name: value for name, value in item.items() if name != "labels"}
    return F.cross_entropy(model(**inputs).logits, item["labels"], reduction="none"), None


def translations() -> list[dict[str, Tensor]]:
    """Sources, and targets of another length whose padding is left out."""
    ids, mask = sentences()
    targets, kept = sentences(5, seed=5)
    labels = torch.where(kept.bool(), targets, -100)
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(3), mask.split(3), labels.split(3), strict=True)
    ]


def own_labels(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    """The loss that the model returns is the mean over the labels that count."""
    return model(**item).loss.reshape(1), (item["labels"] != -100).sum().reshape(1).double()


def decoded(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    """The same, sequence by sequence."""
    each = F.cross_entropy(model(**item).logits.transpose(1, 2), item["labels"], reduction="none")
    return each.sum(1) / (item["labels"] != -100).sum(1), None


def pictures() -> list[dict[str, Tensor]]:
    return [
        {"pixel_values": x, "labels": y}
        for x, y in zip(normal(5, 3, 8, 8).split(3), integers(5, below=2).split(3), strict=True)
    ]


def spoken() -> list[dict[str, Tensor]]:
    labels = integers(4, 3, below=8, least=1)
    return [{"input_values": x, "labels": y} for x, y in zip(normal(4, 200).split(2), labels.split(2), strict=True)]


def ctc(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    """A mean over the examples of a batch."""
    return model(**item).loss.reshape(1), torch.tensor([float(len(item["labels"]))])


def heard() -> list[dict[str, Tensor]]:
    labels = integers(4, 4, below=VOCABULARY, least=3)
    return [{"input_features": x, "labels": y} for x, y in zip(normal(4, 4, 16).split(2), labels.split(2), strict=True)]


def captions() -> list[dict[str, Tensor]]:
    ids, mask = sentences()
    return [
        {"input_ids": i, "attention_mask": m, "pixel_values": x, "return_loss": True}
        for i, m, x in zip(ids.split(3), mask.split(3), normal(5, 3, 8, 8).split(3), strict=True)
    ]


def contrast(model: nn.Module, item: dict[str, Tensor]) -> Losses:
    return model(**item).loss.reshape(1), torch.tensor([float(len(item["input_ids"]))])


def networks() -> list[Any]:
    """Batches of graphs, as pairs of a Data object and its labels."""
    from torch_geometric.data import Batch, Data

    sizes = [3, 5, 4, 6, 2]
    graphs = [
        Data(x=normal(n, 4, seed=n), edge_index=integers(2, 2 * n, below=n, seed=n), y=integers(1, below=3, seed=n))
        for n in sizes
    ]
    return [(b, b.y) for b in (Batch.from_data_list(graphs[:3]), Batch.from_data_list(graphs[3:]))]


def convolved() -> nn.Module:
    from torch_geometric.nn import GCNConv, global_mean_pool

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.read = GCNConv(4, 6), GCNConv(6, 6), nn.Linear(6, 3)

        def forward(self, data: Any) -> Tensor:
            h = torch.tanh(self.one(data.x, data.edge_index))
            return self.read(global_mean_pool(self.two(h, data.edge_index), data.batch))

    return Net()


def of_graphs(model: nn.Module, item: Any) -> Losses:
    return F.cross_entropy(model(item[0]), item[1], reduction="none"), None


def causal(name: str, config: str, label: str, refused: Any = None, **options: Any) -> Family:
    build = model_of(name, config, **{**SMALL, **options})
    return Family(label, build, texts, next_tokens, "next_token", refused=refused or {}, needs="transformers")


GPT2 = model_of("GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16)
LLAMA = model_of("LlamaForCausalLM", "LlamaConfig", **SMALL, num_key_value_heads=1, tie_word_embeddings=False)
PROMPTED = adapted(LLAMA, "PromptTuningConfig", num_virtual_tokens=2, task_type="CAUSAL_LM")
SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}

SPEECH = {
    "vocab_size": 8,
    **TOWER,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "apply_spec_augment": False,
}

T5 = model_of(
    "T5ForConditionalGeneration",
    "T5Config",
    vocab_size=VOCABULARY,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=1,
    num_heads=2,
    decoder_start_token_id=0,
)
_FAMILIES = [
    Family("GPT-2", GPT2, texts, next_tokens, "next_token", needs="transformers"),
    Family(
        "GPT-2, cross_entropy",
        GPT2,
        texts,
        next_tokens,
        "cross_entropy",
        refused={"all": 'loss="next_token"'},
        instead='`loss="next_token"`',
        needs="transformers",
    ),
    Family(
        "GPT-2, its own loss",
        GPT2,
        texts,
        lambda m, b: (m(**b).loss.reshape(1), (b["labels"][:, 1:] != -100).sum().reshape(1).double()),
        "model",
        needs="transformers",
    ),
    causal("LlamaForCausalLM", "LlamaConfig", "Llama, tied", num_key_value_heads=1, tie_word_embeddings=True),
    causal("LlamaForCausalLM", "LlamaConfig", "Llama, untied", num_key_value_heads=1, tie_word_embeddings=False),
    causal("Qwen2ForCausalLM", "Qwen2Config", "Qwen2", num_key_value_heads=1),
    causal("MistralForCausalLM", "MistralConfig", "Mistral", num_key_value_heads=1, sliding_window=4),
    causal(
        "MixtralForCausalLM",
        "MixtralConfig",
        "Mixtral (experts)",
        num_key_value_heads=1,
        num_local_experts=3,
        num_experts_per_tok=2,
        experts_implementation="eager",
    ),
    causal("GemmaForCausalLM", "GemmaConfig", "Gemma", num_key_value_heads=1, head_dim=8),
    causal("Gemma2ForCausalLM", "Gemma2Config", "Gemma 2", num_key_value_heads=1, head_dim=8),
    causal("GPTNeoXForCausalLM", "GPTNeoXConfig", "GPT-NeoX"),
    causal("PhiForCausalLM", "PhiConfig", "Phi"),
    causal("OPTForCausalLM", "OPTConfig", "OPT", ffn_dim=24, word_embed_proj_dim=16),
    causal(
        "BloomForCausalLM",
        "BloomConfig",
        "BLOOM",
        n_layer=1,
        n_head=2,
    ),
    Family(
        "Mamba",
        model_of(
            "MambaForCausalLM", "MambaConfig", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4
        ),
        texts,
        next_tokens,
        "next_token",
        needs="transformers",
    ),
    Family(
        "BERT, masked tokens",
        model_of("BertForMaskedLM", "BertConfig", **SMALL),
        filled,
        fillings,
        needs="transformers",
    ),
    Family(
        "BERT, classes",
        model_of("BertForSequenceClassification", "BertConfig", **SMALL),
        labelled,
        classes,
        needs="transformers",
    ),
    Family(
        "RoBERTa",
        model_of("RobertaForMaskedLM", "RobertaConfig", **{**SMALL, "max_position_embeddings": 24}),
        filled,
        fillings,
        needs="transformers",
    ),
    Family(
        "DeBERTa",
        model_of(
            "DebertaV2ForSequenceClassification",
            "DebertaV2Config",
            **SMALL,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
        labelled,
        classes,
        needs="transformers",
    ),
    Family(
        "DistilBERT",
        model_of(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            vocab_size=VOCABULARY,
            dim=16,
            hidden_dim=24,
            n_layers=1,
            n_heads=2,
        ),
        labelled,
        classes,
        needs="transformers",
    ),
    Family(
        "ALBERT (one layer used three times)",
        model_of(
            "AlbertForSequenceClassification", "AlbertConfig", **{**SMALL, "num_hidden_layers": 3}, embedding_size=8
        ),
        labelled,
        classes,
        needs="transformers",
    ),
    Family(
        "T5",
        T5,
        translations,
        decoded,
        needs="transformers",
    ),
    Family(
        "T5, its own loss",
        T5,
        translations,
        own_labels,
        "model",
        needs="transformers",
    ),
    Family(
        "BART",
        model_of(
            "BartForConditionalGeneration", "BartConfig", **SEQ, max_position_embeddings=16, forced_eos_token_id=2
        ),
        translations,
        decoded,
        needs="transformers",
    ),
    Family(
        "Whisper",
        model_of(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            **SEQ,
            num_mel_bins=4,
            max_source_positions=8,
            max_target_positions=8,
        ),
        heard,
        decoded,
        needs="transformers",
    ),
    Family(
        "wav2vec 2.0, CTC summed over the batch",
        model_of("Wav2Vec2ForCTC", "Wav2Vec2Config", **SPEECH),
        spoken,
        ctc,
        "model",
        refused={"all": "Say what its mean is over"},
        instead='`ctc_loss_reduction="mean"`, or `Loss("model", per="batch", weights=…)`',
        needs="transformers",
    ),
    Family(
        "wav2vec 2.0, CTC",
        model_of("Wav2Vec2ForCTC", "Wav2Vec2Config", **SPEECH, ctc_loss_reduction="mean"),
        spoken,
        ctc,
        "model",
        needs="transformers",
    ),
    Family(
        "ViT",
        model_of("ViTForImageClassification", "ViTConfig", **TOWER, image_size=8, patch_size=4),
        pictures,
        classes,
        needs="transformers",
    ),
    Family(
        "CLIP",
        model_of(
            "CLIPModel",
            "CLIPConfig",
            text_config={**SMALL},
            vision_config={**TOWER, "image_size": 8, "patch_size": 4},
            projection_dim=8,
        ),
        captions,
        contrast,
        "model",
        needs="transformers",
    ),
    Family(
        "LoRA",
        adapted(LLAMA, "LoraConfig", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        texts,
        next_tokens,
        "next_token",
        needs="peft",
    ),
    Family(
        "DoRA",
        adapted(LLAMA, "LoraConfig", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, use_dora=True),
        texts,
        next_tokens,
        "next_token",
        refused=no_slope("difference quotient"),  # its norm is detached
        needs="peft",
    ),
    Family(
        "IA³",
        adapted(LLAMA, "IA3Config", target_modules=["k_proj", "v_proj"], feedforward_modules=[]),
        texts,
        next_tokens,
        "next_token",
        needs="peft",
    ),
    Family(
        "prefix tuning",
        adapted(LLAMA, "PrefixTuningConfig", num_virtual_tokens=2, task_type="CAUSAL_LM"),
        texts,
        next_tokens,
        "next_token",
        needs="peft",
    ),
    Family(
        "prompt tuning",
        PROMPTED,
        texts,
        next_tokens,
        "next_token",
        refused={"all": "outputs (3, 8, 31)"},
        instead='`loss="model"`',
        needs="peft",
    ),
    Family("prompt tuning, its own loss", PROMPTED, texts, own_labels, "model", needs="peft"),
    Family("graph convolution of torch_geometric", convolved, networks, of_graphs, needs="torch_geometric"),
]

# Transformers take logarithms, norms and softmaxes in float32, whatever the type of their weights.
FAMILIES = [replace(each, tolerance=1e-6, autograd=True, slopes=1e-4) for each in _FAMILIES]
