"""Files that are not read: those of other frameworks, by name, and damaged ones."""

from __future__ import annotations

import re
from pathlib import Path

from lerpscape.base.errors import explain

_PICKLES = (".pkl", ".pickle", ".joblib")
# Files of other frameworks, by suffix: what they are, and how their weights come here.
_FOREIGN = {
    (".gguf", ".ggml"): ("GGUF weights, which are mostly quantised", "Take the safetensors files it was made from."),
    (".h5", ".hdf5", ".keras"): (
        "Keras or TensorFlow weights (HDF5)",
        'With transformers: AutoModel.from_pretrained(folder, from_tf=True); else numpy.savez("w.npz", **arrays).',
    ),
    (".msgpack",): (
        "Flax weights",
        'With transformers: AutoModel.from_pretrained(folder, from_flax=True); else numpy.savez("weights.npz", '
        "**arrays), in torch's order of axes.",
    ),
    (".onnx",): ("an ONNX graph", "Export from the torch checkpoint that it was made from, or pass that one."),
    (".pb", ".tflite"): ("a TensorFlow graph", 'numpy.savez("weights.npz", **arrays)'),
    (".pt2",): ("an exported program", "torch.save(program.state_dict, 'weights.pt')"),
    _PICKLES: (
        "a pickle, which can run code and is never loaded",
        'torch.save(model.state_dict(), "weights.pt")',
    ),
}
_FOREIGN_STARTS = {b"GGUF": ".gguf", b"\x89HDF\r\n\x1a\n": ".h5"}
# The starts of what torch.save writes, today and before torch 1.6; its name may end in anything.
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def foreign_kind(path: Path) -> tuple[str, str] | None:
    """What a file of another framework is, and what to do; None for any other file."""
    suffix = path.suffix.lower()
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(8)
        suffix = next((ending for magic, ending in _FOREIGN_STARTS.items() if start.startswith(magic)), suffix)
        if suffix in _PICKLES and start.startswith(_TORCH_STARTS):
            return None
    return next((words for suffixes, words in _FOREIGN.items() if suffix in suffixes), None)


def refuse_foreign(path: Path) -> None:
    """Raises `ValueError` for the file of another framework."""
    kind = foreign_kind(path)
    if kind:
        raise ValueError(
            explain(
                expected="a checkpoint in safetensors, torch.save's or numpy's format.",
                got=f"{path}, {kind[0]}.",
                hint=kind[1],
            )
        )


def damaged(path: Path, what: str, error: Exception) -> ValueError:
    """The error for a file that is not what its name says."""
    text = _COLOURS.sub("", str(error)).splitlines() or ["no more to read"]
    return ValueError(
        explain(
            expected=f"{path} to be {what}.",
            got=f"{type(error).__name__}: {text[0]}",
            hint="Copy it again: it may be cut short or of another kind.",
        )
    )
