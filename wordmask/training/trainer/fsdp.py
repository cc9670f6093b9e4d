"""FSDP2 for models whose head shares weights with the embeddings, as in most masked language models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import PreTrainedModel


def layer_classes(model: PreTrainedModel) -> list[str]:
    """The classes of the layers that FSDP may divide one by one.

    These are the classes that the model lists, without those that hold the embeddings.
    """
    embeddings = model.get_input_embeddings()
    holders = {type(module).__name__ for module in model.modules() if embeddings in set(module.modules())}
    return [name for name in model._no_split_modules or [] if name not in holders]


@contextlib.contextmanager
def tied_weights_together(model: PreTrainedModel, plugin: FullyShardedDataParallelPlugin) -> Iterator[None]:
    """Let accelerate make one group of each layer, and one group of all the rest, which holds all tied weights.

    FSDP2 needs tied weights in one group. accelerate makes one group of the embeddings and another one of the head's
    last matrix, which separates BERT's two ties, that of the matrix and that of the bias. Layers that the
    user names are left as they are.

    A work-around: https://github.com/huggingface/accelerate/pull/4171 keeps a tied matrix together, but not a tied
    bias. It can go when `test_accelerate_alone_cannot_divide_such_models` fails.

    Args:
        model: the model to prepare inside this context.
        plugin: accelerate's settings of FSDP.
    """
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layer_classes(model)
    # accelerate makes no group of what these return.
    model.get_input_embeddings = model.get_output_embeddings = lambda: None  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        del model.get_input_embeddings, model.get_output_embeddings
