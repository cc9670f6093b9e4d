"""What a compiled layer keeps for its backward pass, by --activation_memory_budget.

    python benchmarks/activation_memory.py

Kilobytes (1,024 bytes) for each token and layer of the base models, in bfloat16, without the weights. Graphs are made
and divided as for training, and not compiled, so this runs on any machine, in one to two minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModel, PreTrainedModel

from wordmask.models.compilation import compile_layers, repeated_layers

BACKEND = "aot_eager_decomp_partition"  # makes graphs and divides them as inductor does
# Enough that the activations of a layer take more memory than its weights. 511 = 7 × 73 divides the size of no weight.
BATCH, LENGTH = 16, 511
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
SETTINGS = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": {"global_attn_every_n_layers": 1},  # windows need masks, which all layers share
}


def kept_bytes(output: torch.Tensor, tokens: int) -> int:
    """The bytes of the activations that compiled graphs keep for the backward pass.

    Args:
        output: comes from these graphs.
        tokens: of the batch. What has a multiple of so many numbers is no weight.
    """
    found, waiting, seen = {}, [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            tensors = node.saved_tensors if "Compiled" in node.name() else ()  # type: ignore[attr-defined]
            for tensor in (tensor for tensor in tensors if tensor.numel() % tokens == 0):
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def kept_by_layer(model: PreTrainedModel, budget: float, batch: int, length: int) -> float:
    """The bytes that a layer keeps for each token, in bfloat16."""
    torch._dynamo.reset()
    compile_layers(model, None, BACKEND, None, budget)
    ids = torch.arange(batch * length).reshape(batch, length) % 90 + 5
    with torch.autocast("cpu", torch.bfloat16):
        kept = kept_bytes(model(input_ids=ids)[0], batch * length)
    return kept / (batch * length) / len(repeated_layers(model))


def main(argv: Sequence[str] | None = None) -> dict[float, dict[str, float]]:
    """Print the table, and return its kilobytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 0.8, 0.6, 0.5, 0.3])
    budgets = parser.parse_args(argv).budgets
    table = Table("budget", *(f"{name}, KB" for name in SETTINGS))
    found = {}
    for budget in budgets:
        found[budget] = {name: kept_by_layer(layers_of(name), budget, BATCH, LENGTH) / 1024 for name in SETTINGS}
        table.add_row(f"{budget:g}", *(f"{kilobytes:.1f}" for kilobytes in found[budget].values()))
    Console(width=118).print(table)
    return found


def layers_of(model_type: str) -> PreTrainedModel:
    """Two layers of a base model, with random weights."""
    config = AutoConfig.for_model(model_type, vocab_size=100, num_hidden_layers=2, **SPECIAL, **SETTINGS[model_type])
    return AutoModel.from_config(config, attn_implementation="sdpa").train()


if __name__ == "__main__":
    main()
