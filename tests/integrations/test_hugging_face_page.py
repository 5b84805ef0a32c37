"""The code of `docs/hugging_face.md` runs, block after block, in a folder with what it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hf_folders import TEXT, llama, saved

import lerpscape as ls

pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
PAGE = Path(ls.__file__).parent.parent / "docs" / "hugging_face.md"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    for seed, name in enumerate(("base", "tuned")):
        saved(llama(seed), tmp_path / name)
    adapter = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"])
    peft.get_peft_model(llama(0), adapter).save_pretrained(tmp_path / "adapter")
    (tmp_path / "legal.txt").write_text(TEXT)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "perplexity: " in done.stdout and "The trajectory is " in done.stdout
    assert {file.name for file in (tmp_path / "watch").iterdir()} >= {"start.safetensors", "step2.json", "step4.json"}
