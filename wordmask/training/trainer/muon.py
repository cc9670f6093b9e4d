"""`--optim muon`: Muon for the hidden matrices of an encoder, and AdamW for all other weights, in one optimizer.

Muon (https://kellerjordan.github.io/posts/muon/) makes the momentum of a matrix orthogonal, so that an update has the
same size in all directions. Its updates are scaled to the size of AdamW's (arXiv 2502.16982), so that both parts take
the same learning rate and weight decay. It needs half of AdamW's memory for these matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate

from wordmask.config.optimizer_checks import muon_settings
from wordmask.config.run_arguments import RunArguments
from wordmask.utils.batches import divided
from wordmask.utils.errors import InputError, kind_of
from wordmask.utils.launch import tpu_package

MOMENTUM = 0.95
# An iteration takes X to A X + (B G + C G²) X, where G = X Xᵀ. These coefficients bring singular values near 1.
_A, _B, _C, _ITERATIONS = 3.4445, -4.7750, 2.0315, 5
_SIZE_OF_ADAMW = 0.2  # the root mean square of the entries of AdamW's usual updates
_TOGETHER = 2**24  # entries of matrices of one shape that are multiplied at once: more need memory and are no faster
# How many matrices, one below the other, a weight of this name holds: ModernBERT's queries, keys and values, and what
# its feed-forward layers multiply.
_STACKED = {"Wqkv": 3, "Wi": 2}


def muon_of(model: torch.nn.Module, args: RunArguments) -> tuple[type[Muon], dict[str, Any]]:
    """The optimizer of a run, for the `optimizer_cls_and_kwargs` of a `Trainer`.

    Raises:
        InputError: if the model has no matrix for it.
    """
    matrices = hidden_matrices(model)
    if not matrices:
        raise InputError(
            f"--optim muon: the encoder of {kind_of(model)} has no linear layer to train; give another --optim"
        )
    return Muon, {
        "matrices": matrices,
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "fused": tpu_package() is None,
        **muon_settings(args),
    }


def hidden_matrices(model: torch.nn.Module) -> dict[torch.Tensor, int]:
    """The weights of a model that Muon trains, each with the number of matrices in it, one below the other.

    They are those of the linear layers of its encoder. Embeddings and the head, tied or not, stay with AdamW. Queries,
    keys and values in one weight are three matrices. Muon's author advises both.
    """
    outer: Any = model
    encoder = getattr(outer, "base_model", model)
    head = outer.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    others = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head}
    return {
        module.weight: _STACKED.get(name.rpartition(".")[2], 1)
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad and module.weight not in others
    }


class Muon(torch.optim.Optimizer):
    """Muon for some matrices, and AdamW for all other parameters.

    Its groups are those that it gets, each divided into those of matrices and that of other parameters. Schedules,
    checkpoints and wrappers see one optimizer.

        optimizer = Muon(model.parameters(), hidden_matrices(model), lr=1e-3)

    Args:
        params: parameters or groups of them.
        matrices: those that Muon trains, see `hidden_matrices`.
        lr, weight_decay: of all parameters.
        momentum: of the matrices.
        betas, eps: of the others.
        fused: whether AdamW's step is one kernel, which XLA has not.
    """

    def __init__(
        self,
        params: Any,
        matrices: Mapping[torch.Tensor, int],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
        **adamw: Any,
    ):
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        super().__init__(_divided(groups, matrices, momentum), {"lr": lr, "weight_decay": weight_decay})
        # It adds its settings to these groups. It wants at least one group.
        rest = [group for group in self.param_groups if not group["stacked"]]
        self._adamw = torch.optim.AdamW(rest or [{"params": [torch.zeros(0)]}], lr=lr, **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        of_muon = [group for group in self.param_groups if group["stacked"]]
        # A checkpoint that is loaded replaces the groups and the state.
        self._adamw.param_groups = [group for group in self.param_groups if not group["stacked"]]
        self._adamw.state = self.state
        self._adamw.step()
        for group in of_muon:
            by_shape: dict[Any, list[torch.Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault((weight.shape, weight.device, weight.dtype), []).append(weight)
            for weights in by_shape.values():
                most = max(1, _TOGETHER // weights[0].numel())
                for together in divided(weights, most):
                    self._update(together, group)
        return loss

    def _update(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Update weights of one shape."""
        updates = [self._accumulated(weight, group["momentum"]) for weight in weights]
        whole = torch.stack([_whole(update) for update in updates])
        # ModernBERT's Wqkv of 2304 x 768 has 3 matrices of 768 rows, so 5 such weights are 15 matrices.
        rows, columns = whole.shape[1] // group["stacked"], whole.shape[2]
        whole = orthogonal(whole.view(-1, rows, columns)).reshape(whole.shape)
        rate = group["lr"] * _SIZE_OF_ADAMW * math.sqrt(max(rows, columns))
        for weight, update in zip(weights, whole, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(_divided_as(update.to(weight.dtype), weight), alpha=-rate)

    def _accumulated(self, weight: torch.Tensor, momentum: float) -> torch.Tensor:
        """Add a gradient to the momentum, and return their mean as Nesterov takes it."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(matrices, rows, columns) Matrices with the same singular vectors, whose singular values are about 1.

    This is the iteration of Newton and Schulz. Singular values end between 0.7 and 1.2; those near 0 end lower.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        wide = torch.baddbmm(wide, polynomial, wide, beta=_A)
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT


def _divided(
    groups: Iterable[dict[str, Any]], matrices: Mapping[torch.Tensor, int], momentum: float
) -> Iterator[dict[str, Any]]:
    """The groups, divided by the number of matrices that are stacked in a parameter, which is 0 for AdamW's."""
    for group in groups:
        params = list(group["params"])
        for count in sorted({matrices.get(parameter, 0) for parameter in params}, reverse=True):
            own = [parameter for parameter in params if matrices.get(parameter, 0) == count]
            yield {**group, "params": own, "stacked": count, **({"momentum": momentum} if count else {})}


def _whole(update: torch.Tensor) -> torch.Tensor:
    """A whole matrix, which FSDP2 divides among processes, in the type in which this device multiplies fast."""
    is_fast = update.device.type != "cpu" or cpu_has_bfloat16()
    update = update.to(torch.bfloat16 if is_fast else torch.float32)
    return update.full_tensor() if isinstance(update, DTensor) else update


def _divided_as(update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole matrix, if it has a part of the weight only."""
    if not isinstance(weight, DTensor):
        return update
    mesh = weight.device_mesh
    whole = DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, weight.placements)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16; torch below 2.13 does not say so."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has for name, has in capabilities.items() if name.endswith("bf16"))
