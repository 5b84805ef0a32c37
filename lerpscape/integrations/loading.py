"""One network of a Hugging Face folder, or of a folder and an adapter: loaded whole, from this machine alone, or not.

No code of a folder is run, nothing is fetched, and no tensor is made up: what a folder lacks is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.base.saving import import_optional
from lerpscape.paths.matching import abbreviated

CONFIG, ADAPTER = "config.json", "adapter_config.json"


@dataclass(frozen=True)
class End:
    """A folder with a model, and that of an adapter or None; written `base/` or `base/+adapter/`."""

    folder: Path
    adapter: Path | None

    def __str__(self) -> str:
        return str(self.folder) if self.adapter is None else f"{self.folder}+{self.adapter}"


def end_of(text: str | Path) -> End:
    """The end that a path stands for; folders of adapters are told from their `adapter_config.json`.

    Raises `FileNotFoundError` for what is no folder, and `ValueError` for a folder of another kind.
    """
    whole = Path(text)
    before, plus, after = str(text).partition("+")
    if plus and not whole.exists():
        folder, adapter = Path(before), Path(after)
        _require(folder, CONFIG, "a model's folder")
        _require(adapter, ADAPTER, "an adapter's folder")
        return End(folder, adapter)
    if (whole / ADAPTER).is_file() and not (whole / CONFIG).is_file():
        raise ValueError(
            explain(
                expected="the folder of a whole model.",
                got=f"{whole}, an adapter, which has only what was added to one.",
                hint=f"Name the model before it: base/+{text}",
            )
        )
    _require(whole, CONFIG, "a model's folder")
    return End(whole, None)


def is_folder_of_a_model(text: str | Path) -> bool:
    """Whether a path is that of a folder with a configuration, an adapter aside."""
    return any((Path(each) / CONFIG).is_file() for each in (text, str(text).partition("+")[0]))


def config_of(folder: Path) -> Any:
    """The configuration in a folder.

    Raises `ValueError` for one that transformers does not know, or whose weights are quantised.
    """
    with _refusing(folder):
        config = import_optional("transformers", "hf").AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            explain(
                expected="weights in floating-point numbers.",
                got=f"{folder}, whose weights are quantised.",
                hint="Take the folder that they were quantised from, or save model.dequantize().",
            )
        )
    return config


def load(folder: Path, config: Any, architecture: str, dtype: Any = "auto") -> nn.Module:
    """The network in a folder, in evaluation mode, in the type of its file unless there is a `dtype`.

    Raises `EndpointMismatch` for tensors that the folder lacks or has in another shape: transformers would draw them.
    """
    cls = getattr(import_optional("transformers", "hf"), architecture, None)
    if cls is None:
        raise ValueError(
            explain(
                expected="a model whose class is in transformers.",
                got=f"{architecture!r} in {folder}: no code that comes with a folder is run.",
                hint="Build the module yourself, and give the folders to ls.Line as checkpoints.",
            )
        )
    with _refusing(folder):
        model, info = cls.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    wrong = sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])})
    if wrong:
        raise EndpointMismatch(
            explain(
                expected=f"the weights of a {architecture} in {folder}.",
                got=f"a folder where {abbreviated(wrong)} is missing or has another shape.",
                hint="Such tensors would be random. architecture= names the class that the folder was saved from.",
            )
        )
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # nothing is generated: keys and values would be kept for nothing
    return model.eval()  # type: ignore[no-any-return]


def adapter_config(adapter: Path) -> Any:
    """The configuration of an adapter."""
    with _refusing(adapter):
        return import_optional("peft", "peft").PeftConfig.from_pretrained(adapter, local_files_only=True)


def with_adapter(model: nn.Module, adapter: Path) -> Any:
    """The network with an adapter, not merged."""
    peft = import_optional("peft", "peft")
    with warnings.catch_warnings(), _refusing(adapter):
        warnings.simplefilter("ignore", FutureWarning)  # peft's calls of what transformers will take away
        warnings.filterwarnings("error", message=".*missing adapter keys")
        return peft.PeftModel.from_pretrained(model, adapter, local_files_only=True).eval()


def merged(model: nn.Module, adapter: Path) -> nn.Module:
    """The network with an adapter merged into its weights.

    Raises `ValueError` for adapters that are no change of weights.
    """
    config = adapter_config(adapter)
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    own = with_adapter(model, adapter)
    mergeable = hasattr(own.base_model, "merge_and_unload") and not config.is_prompt_learning
    if not mergeable or getattr(config, "alora_invocation_tokens", None):
        raise ValueError(
            explain(
                expected="an adapter that is a change of the weights, such as LoRA or DoRA.",
                got=f"{adapter}, of the kind {kind}, which adds to what the network reads: there is no network with "
                "half of it.",
                hint="Between two such adapters of one model, merge=False moves their own numbers.",
            )
        )
    with _refusing(adapter):
        return own.merge_and_unload(safe_merge=True).eval()  # type: ignore[no-any-return]


def _require(folder: Path, file: str, what: str) -> None:
    if not (folder / file).is_file():
        raise FileNotFoundError(
            explain(
                expected=f"{what} on this machine, with its {file}.",
                got=f"{folder}, which has none." if folder.exists() else f"{folder}, which does not exist.",
                hint="Nothing is fetched: `hf download NAME --local-dir FOLDER` does it, "
                "save_pretrained(FOLDER) writes your own.",
            )
        )


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns what a library says about a folder into a refusal that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, NotImplementedError, Warning) as e:
        if str(e).startswith("expected:"):
            raise
        raise ValueError(
            explain(
                expected=f"{folder} to be read by its library, without code of its own.",
                got=f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no words'}",
                hint="Is the installed release of the library the one that wrote it, or a later one?",
            )
        ) from e
