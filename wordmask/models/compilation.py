"""Compile a model layer by layer, with --torch_compile.

The layers of an encoder are alike, so one graph serves most of them: the first step comes several times sooner than
with the whole model in one graph, and later steps are as fast (docs/gpu.md). A layer is compiled in place: the names
of its weights stay, and so do hooks, wrappers for several processes and checkpoints. The loss is one more graph.

With `--torch_compile_mode reduce-overhead`, a GPU starts all kernels of a layer at once, by a CUDA graph. It serves
one shape of a batch, and its results stay in memory that its next run overwrites. So the model marks where a pass
begins, and `keep_gradients` copies the gradients of one pass before the next.

What a graph keeps for the backward pass can be limited: `--activation_memory_budget 0.8` computes cheap results again,
such as those of an activation function; 0.5, some products of matrices, too. Losses and gradients stay the same.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from wordmask.config.attention_checks import is_varlen_available
from wordmask.config.run_arguments import captures_graphs
from wordmask.models.loss_head import LossHead

LEAST = 2  # layers, to gain by one graph for all
GRAPHS = 64  # of one function: kinds of layers, times shapes, times training and evaluation


def repeated_layers(model: PreTrainedModel, least: int = LEAST) -> list[nn.Module]:
    """The layers of an encoder: of the classes in its lists of modules, the one with the most weights.

    None if no class is there as often as `least`. A Funnel Transformer has a list of layers for each of its blocks.
    """
    by_class: dict[type, list[nn.Module]] = {}
    for modules in model.base_model.modules():
        for module in modules if isinstance(modules, nn.ModuleList) else []:
            if not isinstance(module, nn.ModuleList):  # which is not called, so it has nothing to compile
                by_class.setdefault(type(module), []).append(module)
    alike = [layers for layers in by_class.values() if len(layers) >= least]
    return max(alike, key=lambda layers: sum(p.numel() for layer in layers for p in layer.parameters()), default=[])


@functools.cache
def _save_attention() -> None:
    """Let no graph compute varlen attention again: PyTorch does not know that this operation takes long.

    A work-around, as https://github.com/pytorch/pytorch/pull/129533 for other attention. It can go when
    `test_attention_is_not_computed_again` passes without it.
    """
    if not is_varlen_available():
        return
    import torch.nn.attention.varlen  # defines the operation
    from torch._functorch import partitioners  # imports the compiler, which other runs do not need

    listed = partitioners.get_default_op_list

    def with_attention() -> Any:
        operations = listed()
        operations.compute_intensive_ops.add(torch.ops.torch_attn._varlen_attn)
        return operations

    partitioners.get_default_op_list = with_attention


@functools.cache
def _write_parts_in_place() -> None:
    """Let the compiler write each part of a tensor, such as the halves of a gated activation's gradient, to its place.

    Else a kernel computes all parts for each number on a GPU, and keeps one of them. That is fine only where the
    tensor is not written, since what follows is computed in the same kernel.
    """
    from torch._inductor import config, ir, lowering
    from torch._inductor.virtualized import V

    together = getattr(lowering, "pointwise_cat", None)
    if together is None:  # another version of PyTorch may do without it
        return

    @functools.wraps(together)
    def in_place(inputs: Any, dim: int = 0) -> Any:
        if all(lowering.is_pointwise_use(use) for use in V.current_node.users):
            return together(inputs, dim)
        return ir.TensorBox(ir.ConcatKernel.create(inputs, dim))

    lowering.pointwise_cat = in_place
    # What was compiled without this must not come from the compiler's cache, whose keys hold this setting. It changes
    # nothing else: for up to 8 parts, another rule comes first.
    config.max_pointwise_cat_inputs = 7


def compile_layers(
    model: PreTrainedModel, head: LossHead | None, backend: str | None, mode: str | None, memory_budget: float = 1.0
) -> bool:
    """Have each layer compiled when it is first called, and return whether the model has such layers.

    Args:
        model: the model, changed in place.
        head: computes its loss, which is compiled, too.
        backend, mode: those of `torch.compile`.
        memory_budget: the share of the activations that a graph keeps for its backward pass; 1 keeps all that take
            time to compute again. It holds for all graphs that this process compiles from now on.
    """
    if memory_budget < 1:  # else that of the user's program stays
        torch._functorch.config.activation_memory_budget = memory_budget
        _save_attention()
    layers = repeated_layers(model)
    if layers:
        # Past this number, PyTorch gives up on a function and no longer compiles it.
        torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    options: dict[str, Any] = {"backend": backend or "inductor", "mode": mode}
    if layers and options["backend"] == "inductor":
        _write_parts_in_place()
    for layer in layers:
        layer.compile(**options)
    if captures_graphs(backend, mode):
        # Else each layer may overwrite what the layer before it has given, in an evaluation for example.
        model.base_model.register_forward_pre_hook(_begin_pass)
    if layers and head is not None:
        head.compile(options["backend"])
    return bool(layers)


def _begin_pass(*_: Any) -> None:
    torch.compiler.cudagraph_mark_step_begin()


def keep_gradients(model: nn.Module) -> None:
    """Copy the gradients of a model to memory of their own, once; later passes are added to these."""
    for weight in model.parameters():
        if weight.grad is not None and not hasattr(weight.grad, "is_kept"):
            weight.grad = weight.grad.clone()
            weight.grad.is_kept = True  # type: ignore[attr-defined]
