"""The code of docs/transformers.md runs, in order, and what the page says comes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from gramian.layers.reducible import reducible_layers
from mixer_models import logits, transformers

PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


def test_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert all(layer.d_state < 16 for layer in reducible_layers(names["model"]).values())
    ids = names["batches"][0]["input_ids"]
    assert torch.equal(logits(names["again"], ids), logits(names["model"], ids))
    stock = transformers.AutoModelForCausalLM.from_pretrained("filled")
    torch.testing.assert_close(logits(stock, ids), logits(names["model"], ids), rtol=1e-5, atol=1e-5)
