"""FSDP2 takes models whose head is tied to the embeddings, here on CPUs in a group of one process."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.tensor import DTensor
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from conftest import SMALL, slow_after
from wordmask.models.loss_head import find_loss_head
from wordmask.models.sparse_prediction import find_sparse_prediction
from wordmask.training.trainer.fsdp import layer_classes, tied_weights_together

LAYERS = {
    "bert": ["BertLayer"],
    "roberta": ["RobertaLayer"],
    "modernbert": ["ModernBertEncoderLayer"],
    "xlm-roberta-xl": ["XLMRobertaXLLayer"],
}


def tiny(model_type: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](vocab_size=90, **{**SMALL, "num_hidden_layers": 2})
    config.pad_token_id = 0
    return AutoModelForMaskedLM.from_config(config).eval()


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def shard(model: torch.nn.Module, together: bool) -> torch.nn.Module:
    """What the Trainer's accelerator does to a model with --fsdp."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=True, device="cpu"
    )
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    accelerator.torch_device_mesh = {("fsdp",): mesh}
    accelerator.parallelism_config = SimpleNamespace(fsdp_dim_names=["fsdp"])
    with tied_weights_together(model, plugin) if together else contextlib.nullcontext():
        return fsdp2_prepare_model(accelerator, model)


@pytest.mark.parametrize("in_head", [False, True])
@pytest.mark.parametrize("model_type", slow_after(1, LAYERS))
def test_loss_and_gradients_are_those_of_the_whole_model(model_type, in_head, group):
    ids = torch.arange(2 * 9).reshape(2, 9) + 10
    whole, model = tiny(model_type), tiny(model_type)
    assert layer_classes(model) == LAYERS[model_type]
    sparse, head = find_sparse_prediction(model), find_loss_head(model)
    shard(model, together=True)
    assert model.get_output_embeddings() is not None
    positions = torch.tensor([1, 12])
    labels = torch.full_like(ids, -100)
    labels.view(-1)[positions] = ids.view(-1)[positions]
    expected = whole(input_ids=ids, labels=labels).loss
    kept = ids.view(-1)[positions][None]
    with sparse.at(positions), head.at(kept) if in_head else contextlib.nullcontext():
        found = model(input_ids=ids).logits if in_head else model(input_ids=ids, labels=kept).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    found.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(isinstance(gradient, DTensor) for gradient in gradients.values())
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].full_tensor(), parameter.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", LAYERS)
def test_accelerate_alone_cannot_divide_such_models(model_type, group):
    """A guard: when this fails, wordmask.training.trainer.fsdp may go."""
    with pytest.raises((TypeError, ValueError)):
        shard(tiny(model_type), together=False)(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_layers_that_the_user_named_are_left():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, transformer_cls_names_to_wrap=["BertLayer"])
    with tied_weights_together(tiny("bert"), plugin):
        assert plugin.transformer_cls_names_to_wrap == ["BertLayer"]
