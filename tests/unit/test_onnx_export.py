"""Export to ONNX Runtime: the same answers, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from daitn.base.errors import InputError
from daitn.learning.graphs.export import export_pair
from daitn.learning.graphs.rebuild import RebuiltModule, rebuild
from daitn.learning.onnx_export import OnnxModel

pytest.importorskip("onnxruntime")


class Words(nn.Module):
    """Tokens and their mask, of any length, to a mean vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(16, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        weights = mask.unsqueeze(-1).float()
        mean = (self.norm(self.table(tokens)) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return {"mean": mean, "tokens": weights.sum(1)}


@pytest.fixture(scope="module")
def words() -> RebuiltModule:
    example = {"tokens": torch.randint(0, 16, (3, 5)), "mask": torch.ones(3, 5, dtype=torch.int64)}
    sides = {"tokens": ("batch", "length"), "mask": ("batch", "length")}
    pair, tensors = export_pair(Words(), example, sides)
    return rebuild(pair, tensors).eval()


def test_exported_model_says_what_the_graph_says_for_any_rows_and_length(words: RebuiltModule) -> None:
    model = OnnxModel(words.pair, words, 1)

    for rows, length in ((1, 2), (6, 9)):
        inputs = {"tokens": np.full((rows, length), 3), "mask": np.ones((rows, length), np.int64)}
        found = model(inputs)
        wanted = words(**{name: torch.from_numpy(one) for name, one in inputs.items()})
        assert set(found) == {"mean", "tokens"}
        np.testing.assert_allclose(found["mean"], wanted["mean"].detach().numpy(), rtol=1e-4, atol=1e-5)


def test_rows_that_the_runtime_does_not_take_are_an_input_error(words: RebuiltModule) -> None:
    model = OnnxModel(words.pair, words, 1)
    with pytest.raises(InputError, match="takes the inputs"):
        model({"tokens": np.zeros((1, 2), np.int64)})
    with pytest.raises(InputError, match="failed on these rows"):
        model({"tokens": np.zeros((1, 2), np.float32), "mask": np.ones((1, 2), np.int64)})


def test_model_that_says_something_else_when_exported_is_refused(
    words: RebuiltModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daitn.learning import onnx_export

    exported = onnx_export._export

    def export_another(pair: object, module: nn.Module) -> bytes:
        with torch.no_grad():
            words.get_parameter("norm.weight").mul_(2)
        try:
            return exported(pair, module)  # type: ignore[arg-type]
        finally:
            with torch.no_grad():
                words.get_parameter("norm.weight").div_(2)

    monkeypatch.setattr(onnx_export, "_export", export_another)
    with pytest.raises(InputError, match="differs by"):
        OnnxModel(words.pair, words, 1)


def test_model_that_the_exporter_cannot_translate_is_refused(
    words: RebuiltModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_args: object, **_options: object) -> None:
        raise torch.onnx.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(InputError, match=r"cannot be exported to ONNX.*no such operator"):
        OnnxModel(words.pair, words, 1)


def test_model_too_large_for_one_file_is_refused(words: RebuiltModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daitn.learning.onnx_export.BYTES_MOST", 8)
    with pytest.raises(InputError, match="at most 8"):
        OnnxModel(words.pair, words, 1)


def test_fault_of_ours_is_not_called_the_owners(words: RebuiltModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_args: object, **_options: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(KeyError):
        OnnxModel(words.pair, words, 1)
