"""FSDP2 for models whose head is tied to their embeddings, as that of almost every masked language model is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def layer_classes(model: Any) -> list[str]:
    """The classes of a model's layers that FSDP may divide one by one.

    They are the model's own list without what holds the embeddings, which share a weight with the head.
    """
    embeddings = model.get_input_embeddings()
    holders = {type(module).__name__ for module in model.modules() if embeddings in set(module.modules())}
    return [name for name in model._no_split_modules or [] if name not in holders]


@contextlib.contextmanager
def tied_weights_together(model: Any, plugin: Any) -> Iterator[None]:
    """Let accelerate put layers into groups of their own, and all else, tied weights included, into one.

    FSDP2 takes weights that are tied in one group only. accelerate makes groups of the embeddings' module, as the
    model lists it, and of the head's last matrix, so that BERT's two ties, of the matrix and of its bias, are torn.
    Layers that the user named are left as they are.

    A work-around: https://github.com/huggingface/accelerate/pull/4171 keeps one tied matrix together, but not BERT's
    second tie, that of the bias. It can go when `test_accelerate_alone_cannot_divide_such_models` fails.

    Args:
        model: the model that is prepared inside.
        plugin: accelerate's `FullyShardedDataParallelPlugin`.
    """
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layer_classes(model)
    model.get_input_embeddings = model.get_output_embeddings = lambda: (
        None
    )  # so that accelerate makes no group of them
    try:
        yield
    finally:
        del model.get_input_embeddings, model.get_output_embeddings
