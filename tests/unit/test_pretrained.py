"""Pretrained models travel as a closed description and tensors; nothing remote, nothing lost."""

from __future__ import annotations

import json

import pytest
import torch

from daitn.base.errors import InputError, PeerError
from daitn.learning.pretrained import build_pretrained, describe_pretrained

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IDS = torch.arange(1, 15).reshape(2, 7)


def make_bert() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3))


def make_llama() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True))


ADAPTERS = {
    "none": lambda targets, task: None,
    "LORA": lambda targets, task: peft.LoraConfig(r=2, target_modules=targets, task_type=task, lora_dropout=0.1),
    "IA3": lambda targets, task: peft.IA3Config(target_modules=targets, feedforward_modules=[], task_type=task),
    "LOHA": lambda targets, task: peft.LoHaConfig(r=2, target_modules=targets, task_type=task),
    "LOKR": lambda targets, task: peft.LoKrConfig(r=2, target_modules=targets, task_type=task),
}
MODELS = {"bert": (make_bert, ["query", "value"], "SEQ_CLS"), "llama": (make_llama, ["q_proj", "v_proj"], "CAUSAL_LM")}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("model", MODELS)
def test_model_described_and_built_again_is_the_same(model, adapter):
    make, targets, task = MODELS[model]
    module = make()
    config = ADAPTERS[adapter](targets, task)
    if config is not None:
        module = peft.get_peft_model(module, config)
        for parameter in module.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
    parts = describe_pretrained(module)
    random = torch.get_rng_state()
    again = build_pretrained(parts.config_json, parts.adapter_json, parts.base | parts.adapter)

    assert torch.equal(torch.get_rng_state(), random)
    assert again.training
    assert (parts.adapter_json is None) == (config is None) == (not parts.adapter)
    assert not set(parts.base) & set(parts.adapter)
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in module.named_parameters() if p.requires_grad
    ]
    assert torch.equal(module.eval()(input_ids=IDS).logits, again.eval()(input_ids=IDS).logits)
    second = describe_pretrained(again)
    assert (second.config_json, second.adapter_json) == (parts.config_json, parts.adapter_json)


def test_base_tensors_are_those_of_the_bare_model_so_they_need_not_travel_twice():
    bare = describe_pretrained(make_bert())
    adapted = describe_pretrained(
        peft.get_peft_model(make_bert(), peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    )
    assert adapted.config_json == bare.config_json
    assert adapted.base.keys() == bare.base.keys()
    assert all(torch.equal(adapted.base[name], bare.base[name]) for name in bare.base)


def test_adapter_option_outside_the_list_is_an_input_error_and_not_dropped():
    config = peft.LoraConfig(target_modules=["query"], rank_pattern={"query": 3})
    with pytest.raises(InputError, match="rank_pattern"):
        describe_pretrained(peft.get_peft_model(make_bert(), config))


def test_module_that_is_no_transformers_model_is_an_input_error():
    with pytest.raises(InputError, match="no transformers model"):
        describe_pretrained(torch.nn.Linear(2, 2))


def changed(**values: object) -> bytes:
    description = json.loads(describe_pretrained(make_bert()).config_json)
    for key, value in values.items():
        target = description if key in description else description["values"]
        target[key] = value
    return json.dumps(description).encode()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"auto_map": {"AutoModel": "someone/model--modeling.Model"}}, "remote code"),
        ({"trust_remote_code": True}, "remote code"),
        ({"id2label": {"auto_map": "x"}}, "remote code"),
        ({"quantization_config": {}}, "remote code"),
        ({"auto_class": "AutoModelForVision2Seq"}, "not an allowed Auto class"),
        ({"auto_class": "os"}, "not an allowed Auto class"),
        ({"model_type": "custom"}, "not an allowed model type"),
        ({"_attn_implementation": "someone/kernel"}, "no configuration keys"),
        ({"attn_implementation": "someone/kernel"}, "no configuration keys"),
        ({"dtype": "os.system"}, "asks for the type"),
        ({"vocab_size": 1 << 40}, "allowed"),
        ({"num_hidden_layers": 100_000}, "1024 allowed"),
        ({"hidden_size": 1 << 14, "num_attention_heads": 2}, "parameters"),
        ({"hidden_act": "os.system"}, "cannot be built"),
        ({"problem_type": "x" * 300}, "300 characters"),
        ({"id2label": {"0": [[[[[[[[[["x"]]]]]]]]]]}}, "nests deeper"),
        ({"hidden_size": 17}, "cannot be built|not the model's|the model has"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_description_that_breaks_a_rule_is_a_peer_error(values, said):
    base = describe_pretrained(make_bert()).base
    with pytest.raises(PeerError, match=said):
        build_pretrained(changed(**values), None, base)


@pytest.mark.parametrize(
    "adapter",
    [
        {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["query"], "auto_mapping": {"x": "os"}},
        {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["(a+)+$"]},
        {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": "(a+)+$"},
        {"peft_type": "LORA", "r": 1 << 30, "lora_alpha": 8, "target_modules": ["query"]},
        {"peft_type": "PROMPT_TUNING", "target_modules": ["query"]},
        {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["missing"]},
        [],
    ],
    ids=["import", "pattern", "text", "rank", "kind", "missing", "list"],
)
def test_adapter_that_breaks_a_rule_is_a_peer_error(adapter):
    parts = describe_pretrained(make_bert())
    with pytest.raises(PeerError):
        build_pretrained(parts.config_json, json.dumps(adapter).encode(), parts.base)


def test_missing_and_superfluous_tensors_are_a_peer_error():
    parts = describe_pretrained(make_bert())
    with pytest.raises(PeerError, match=r"missing \['classifier.bias'\]"):
        build_pretrained(parts.config_json, None, {n: t for n, t in parts.base.items() if n != "classifier.bias"})
    with pytest.raises(PeerError, match=r"not known \['extra'\]"):
        build_pretrained(parts.config_json, None, parts.base | {"extra": torch.zeros(1)})
