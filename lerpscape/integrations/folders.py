"""`hugging_face()`: two folders, or a folder and an adapter, as a model and the line between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.integrations.loading import End, adapter_config, config_of, end_of, load, merged, with_adapter
from lerpscape.integrations.text import TextBlocks, text_blocks, tokens_of
from lerpscape.networks.label_meaning import CAUSAL
from lerpscape.paths.checkpoints import Checkpoint, checkpoint
from lerpscape.paths.line import Line

# Settings that change nothing in the forward pass of evaluation mode: where a network comes from, how it is stored and
# trained, and what it is asked to write.
_WITHOUT_EFFECT = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_WITHOUT_EFFECT += ("architectures", "auto_map", "task_specific_params", "id2label", "label2id", "finetuning_task")
_WITHOUT_EFFECT += ("bos_token_id", "eos_token_id", "initializer_range", "vocab_size")  # shapes tell the last one
_OF_TRAINING = ("dropout", "pdrop", "layerdrop")


@dataclass(frozen=True)
class HuggingFace:
    """A network of transformers and the line between two of its checkpoints.

    `model` is what `profile` and every study take, `line` the path, and `folders` where the ends come from.
    """

    model: nn.Module
    line: Line
    folders: tuple[Path, Path]

    def text(self, source: str | Path, length: int | None = None, batch: int = 8) -> TextBlocks:
        """A text as blocks of tokens, for `loss="next_token"`.

        The folders' tokenizer cuts the whole text, without special tokens, into blocks of `length` tokens (512, or what
        the network can read, by default); the last one may be shorter. A block is an example. Each of its tokens is
        predicted from those before it in the block, the first one is not: so one token in `length` is left out, and
        the others have at most `length` − 1 tokens of context. `source` is the path of a text file in UTF-8; `batch` is
        how many blocks are computed at once.

        Raises `ValueError` for a network that does not predict the next token, for two folders whose tokenizers differ
        on the text, and for a text of less than two tokens.
        """
        _require_causal(self.model)
        text = Path(source).read_text(encoding="utf-8")
        first, *others = tokens_of(text, dict.fromkeys(self.folders))
        if any(each != first for each in others):
            raise ValueError(
                explain(
                    expected="two folders that cut the text into the same tokens.",
                    got=f"{self.folders[0]} and {self.folders[1]}, whose tokenizers differ on {source}.",
                    hint="Cut it by one of them: ls.integrations.text_blocks(tokens, length).",
                )
            )
        most = getattr(self.model.config, "max_position_embeddings", None) or 512
        return text_blocks(first, min(512, most) if length is None else length, batch, str(source))


def hugging_face(
    start: str | Path,
    end: str | Path,
    *,
    architecture: str | None = None,
    config: Literal["start", "end"] | None = None,
    merge: bool = True,
) -> HuggingFace:
    """The network of two Hugging Face folders, and the line θ(α) = (1−α)θ₀ + αθ_T between them.

    transformers builds the class that `config.json` names and loads both folders: names, tied weights, shards and dtype
    are as it reads them. Nothing is fetched and no code of a folder is run.

    * `start`, `end`: folders as `save_pretrained` writes them, or `"base/+adapter/"`, a folder and a peft adapter.
    * `architecture`: a class of transformers, such as `"LlamaForCausalLM"`; by default that of the folders.
    * `config`: where the folders' configurations disagree in what the network computes, the one to compute with.
    * `merge`: an adapter is merged into the weights, in float32: from `base/` to `base/+adapter/` the line is
      W + αΔW, for LoRA W + α·s·BA: the network with the adapter at the scale α. DoRA and all others that are a change
      of weights are merged too, and their ends are right, but between the ends they are not the adapter at a scale.
      With `merge=False` the numbers of two adapters of one kind are interpolated, `(1−α)B₀ + αB₁` times
      `(1−α)A₀ + αA₁`, in one base network: another path, the one for the training of an adapter.

    Needs `pip install "lerpscape[hf]"`, with adapters `"lerpscape[peft]"`. Three networks are in memory.

    Raises `FileNotFoundError` for what is no such folder, `ValueError` for adapters that cannot be merged, for
    quantised weights and for configurations that disagree, and `EndpointMismatch` for tensors that a folder lacks.

    Sources: Wortsman et al. (2022), WiSE-FT; Ilharco et al. (2023), task arithmetic.

    >>> pair = hugging_face("base", "tuned")  # doctest: +SKIP
    >>> profile(pair.model, pair.line, pair.text("legal.txt"), loss="next_token").summary  # doctest: +SKIP
    'Monotonic as far as the grid shows: …'
    """
    ends = end_of(start), end_of(end)
    configs = [config_of(each.folder) for each in ends]
    chosen = configs[config == "end"]
    differing = _differing(*configs)
    if differing and config is None:
        raise ValueError(
            explain(
                expected="two configurations that compute the same with the same weights.",
                got=f"{', '.join(differing[:5])} in {ends[0].folder} and {ends[1].folder}.",
                hint='config="start" or config="end" says whose the whole line is computed with.',
            )
        )
    name = architecture or _architecture(ends, configs)
    base = ends[config == "end"].folder
    model = load(base, chosen, name)
    if not merge:
        model, line = _line_of_adapters(model, ends, configs, name)
    else:
        line = Line(*(_merged_end(each, own, name, model, base) for each, own in zip(ends, configs, strict=True)))
    return HuggingFace(model, line, (ends[0].folder, ends[1].folder))


def _merged_end(end: End, config: Any, architecture: str, model: nn.Module, base: Path) -> Checkpoint:
    """The whole weights of an end; `model` has those of the folder `base`."""
    if end.adapter is not None:
        own = merged(load(end.folder, config, architecture, torch.float32), end.adapter)
    elif end.folder == base:
        return _named(checkpoint(model), end)
    else:
        own = load(end.folder, config, architecture)
    # the module is nobody else's: its tensors need not be copied
    tensors = {name: tensor.detach() for name, tensor in own.state_dict(keep_vars=True).items()}
    return _named(Checkpoint(tensors, tuple(name for name, _ in own.named_parameters()), ""), end)


def _line_of_adapters(
    model: nn.Module, ends: tuple[End, End], configs: list[Any], architecture: str
) -> tuple[nn.Module, Line]:
    """One base network with an adapter, and the line between the numbers of two adapters."""
    first, last = ends
    if first.adapter is None or last.adapter is None or first.folder.resolve() != last.folder.resolve():
        raise ValueError(
            explain(
                expected="with merge=False, two adapters of one model: base/+one/ and base/+other/.",
                got=f"{first} and {last}.",
                hint="merge=True takes any two networks.",
            )
        )
    kinds = [_settings(adapter_config(each.adapter).to_dict()) for each in ends if each.adapter]
    differing = sorted(name for name in kinds[0] | kinds[1] if kinds[0].get(name) != kinds[1].get(name))
    differing = [name for name in differing if name not in ("base_model_name_or_path", "revision", "inference_mode")]
    if differing:
        raise ValueError(
            explain(
                expected="two adapters of one kind and size, with merge=False.",
                got=f"different {', '.join(differing[:5])} in {first.adapter} and {last.adapter}.",
                hint="merge=True interpolates the weights that they make.",
            )
        )
    one = with_adapter(model, first.adapter)
    other = with_adapter(load(last.folder, configs[1], architecture), last.adapter)
    return one, Line(_named(checkpoint(one), first), _named(checkpoint(other), last))


def _named(given: Checkpoint, end: End) -> Checkpoint:
    return Checkpoint(given.tensors, given.parameters, str(end))


def _architecture(ends: tuple[End, End], configs: list[Any]) -> str:
    """The class that both configurations name."""
    names = [(getattr(config, "architectures", None) or [None])[0] for config in configs]
    if names[0] is None or names[0] != names[1]:
        raise EndpointMismatch(
            explain(
                expected="two folders of one class of transformers.",
                got=" and ".join(f"{name or 'no class'} in {end.folder}" for name, end in zip(names, ends, strict=True))
                + ".",
                hint='architecture="LlamaForCausalLM", say, loads both as that class, if both have all of its weights.',
            )
        )
    return str(names[0])


def _differing(one: Any, other: Any) -> list[str]:
    """The settings of two configurations that differ and have an effect, with their values."""
    first, second = (_settings(config.to_dict()) for config in (one, other))
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    return [f"{name} = {first.get(name)} and {second.get(name)}" for name in names]


def _settings(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Settings with an effect by name, those of parts with dots between."""
    return dict(_flat(values, before))


def _flat(values: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = str(key)
        if name in _WITHOUT_EFFECT or any(each in name for each in _OF_TRAINING):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, sorted(map(str, value)) if isinstance(value, (set, frozenset)) else value


def _require_causal(model: nn.Module) -> None:
    """Refuse networks that do not predict the next token of a text."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.config.is_encoder_decoder:
        what = "an encoder–decoder, which writes a target for a source"
    elif not type(inner).__name__.endswith(CAUSAL):
        what = "no causal language model"
    elif _sees_later_tokens(inner):
        what = "where a token sees those that come after it"
    else:
        return
    raise ValueError(
        explain(
            expected="a causal language model, which predicts the next token of a text.",
            got=f"{type(inner).__name__}, {what}.",
            hint='Give batches of your own: data=[{"input_ids": …, "labels": …}] with loss="model", on the command '
            "line --data package.module:name --loss model.",
        )
    )


def _sees_later_tokens(model: nn.Module) -> bool:
    """Whether the outputs at earlier tokens change with the last one."""
    ids = torch.arange(8).remainder(model.config.get_text_config().vocab_size)[None].to(next(model.parameters()).device)
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    with torch.no_grad():
        one, changed = (model(input_ids=each).logits[:, :-1].float() for each in (ids, other))
    return not torch.allclose(one, changed, rtol=1e-2, atol=1e-2 * float(one.abs().max()))
