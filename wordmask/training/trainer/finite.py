"""A Trainer that stops when a loss, a gradient norm or a weight is not finite, before anything broken is saved."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import torch

from wordmask.training.records.manifest import checkpoints_in
from wordmask.training.trainer.checkpoints import CheckpointingTrainer
from wordmask.utils.errors import InputError


class FiniteTrainer(CheckpointingTrainer):
    """A `Trainer` that raises an `InputError` when numbers blow up, unless --allow_nan is given.

    What it notes of each step stays on the device. It is read at each log, before each evaluation and before each
    save, so that no step waits for it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._note_anew()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Train. With --auto_find_batch_size, each attempt counts its steps anew."""
        self._note_anew()
        return super()._inner_training_loop(*args, **kwargs)

    def _note_anew(self) -> None:
        device = self.args.device
        # Of the loss and of the gradient norm: whether all were finite, and the number of steps before the first that
        # was not. A counter on the device, since the number of a step would be compiled into each step on a TPU.
        self._are_finite = torch.ones(2, dtype=torch.bool, device=device)
        self._finite_steps = torch.zeros(2, dtype=torch.int64, device=device)
        self._has_loss = torch.zeros((), dtype=torch.bool, device=device)  # whether any loss was not 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward through a batch."""
        loss = super().training_step(*args, **kwargs)
        self._are_finite[0] &= torch.isfinite(loss)
        self._has_loss |= loss != 0
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """The gradient norm of a step. A gradient scaler skips steps by design, so its norms may be infinite."""
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None and getattr(self.accelerator, "scaler", None) is None:
            whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of a model that is divided by FSDP
            self._are_finite[1] &= torch.as_tensor(whole, device=self.args.device).isfinite()
        self._finite_steps += self._are_finite
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save what is finite."""
        if self.control.should_log or self.control.should_evaluate:
            self._check_finite()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, if it is finite."""
        self._check_finite(weights=True)
        super()._save_checkpoint(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Finish, if the model is finite, and has learned from any token."""
        self._check_finite(weights=True)
        has_loss = self.accelerator.gather(self._has_loss.long().unsqueeze(0)).any()
        if self.state.global_step > self._initial_global_step == 0 and not has_loss:
            raise InputError(
                "training: no token of the text can be masked, so every loss was 0; give another text, and if its "
                "examples have an attention_mask or a special_tokens_mask, check these"
            )
        return super()._finalize_training(*args, **kwargs)

    def _check_finite(self, weights: bool = False) -> None:
        """Raise an `InputError` if a number of any process is not finite.

        Args:
            weights: whether to look at the weights, too; they may be broken by a step whose loss was finite.
        """
        if self.args.allow_nan:
            return
        noted = [self._are_finite.long(), self._finite_steps]
        noted += [_weights_are_finite(self.model).long().unsqueeze(0)] if weights else []
        of_all = self.accelerator.gather(torch.cat(noted).unsqueeze(0))
        loss, norm, loss_steps, norm_steps, *weight = of_all.amin(0).tolist()
        first, now = self._initial_global_step + 1, self.state.global_step
        broken = []
        if not loss:
            broken.append((first + loss_steps, "the loss of step {} is"))
        if not norm:
            broken.append((first + norm_steps, "the gradient norm of step {} is"))
        if weight == [0]:
            broken.append((now, "weights after step {} are"))
        if not broken:
            return
        step, what = min(broken, key=itemgetter(0))
        model: Any = self.model
        kept = checkpoints_in(str(self.args.output_dir))
        last = f"the last checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        half = any(weight.dtype == torch.float16 for weight in model.parameters())
        advice = "--dtype float32, or a lower --learning_rate" if half else "a lower --learning_rate"
        raise InputError(
            f"{what.format(step)} not finite (NaN or infinite), so the run stops and saves nothing more; {last}; give "
            f"{advice}, or --allow_nan to train on"
        )


def _weights_are_finite(model: Any) -> torch.Tensor:
    """() Whether all weights are finite, of those that this process holds."""
    weights = [weight.detach() for weight in model.parameters() if weight.is_floating_point()]
    parts = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights]
    return torch.stack([part.isfinite().all() for part in parts]).all()
