"""An adapter's tensors have other names in the package than in the module that wraps them; slots follow the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.text_world import token_contract, write_base

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.descriptors.work import Training
from daitn.learning.numerics.modules import BoundModule, Structure
from daitn.learning.numerics.optimizers import STEPS
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, train
from daitn.learning.records import Records
from daitn.learning.tasks import numerics_for

pytest.importorskip("peft")


def test_training_an_adapter_keys_slots_and_arrived_weights_by_the_packages_names(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    from daitn.learning.pretrained import describe_pretrained

    model = AutoModel.from_pretrained(write_base(tmp_path / "base"), local_files_only=True)
    module = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["query"]))
    parts = describe_pretrained(module)
    tensors = {**parts.base, **parts.adapter}
    specs = [
        TensorSpec(
            name=name,
            dtype="float32",
            shape=tuple(tensor.shape),
            role="parameter" if name in parts.adapter else "frozen",
        )
        for name, tensor in tensors.items()
    ]
    layout = plan_layout(specs)
    payload = bytearray(layout.payload_bytes)
    for entry in layout.entries:
        data = tensors[entry.name].contiguous().numpy().tobytes()
        payload[entry.offset : entry.offset + len(data)] = data
    bound = BoundModule(Structure(module, tensors), torch.device("cpu"))
    bound.bind(layout.entries, memoryview(payload), changing=True)
    assert set(bound.trainable()) == set(parts.adapter)

    contract = token_contract("0" * 64)
    tokens = np.random.default_rng(0).integers(2, 60, (8, 16))
    mask = np.ones_like(tokens)
    names = ("input_ids", "attention_mask", "answer_ids", "answer_mask")
    inputs = dict(zip(names, (tokens, mask, tokens[:, ::-1].copy(), mask), strict=True))
    records = Records(inputs, None, np.zeros((8, 3), bool), np.arange(8), "site/texts")  # type: ignore[arg-type]
    training = Training(batch_size=4, batches=2, learning_rate=1e-2, optimizer="adam", carry_optimizer=True)
    result = train(
        bound.module,
        numerics_for(contract.task, contract),
        MemorySlice(records.dataset, records),
        training,
        ModelState(),
        parameters=bound.trainable(),
        arrived=bound.arrived,
    )
    assert result.update_norm > 0
    named = [slot for slot in result.state.slots if slot != STEPS]
    assert named
    assert all(any(name in slot for name in parts.adapter) for slot in named)
