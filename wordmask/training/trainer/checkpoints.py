"""A Trainer whose checkpoints are whole or not there, and which keeps the earlier ones until a new one is whole."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from transformers import Trainer

from wordmask.config.run_arguments import RunArguments
from wordmask.training.records.manifest import (
    checkpoint_step,
    checkpoints_in,
    find_damage,
    remove_checkpoint,
    write_manifest,
)
from wordmask.training.records.output_dir import written
from wordmask.utils.errors import InputError, reported
from wordmask.utils.launch import is_of_lost_process

logger = logging.getLogger(__name__)


class CheckpointingTrainer(Trainer):
    """A `Trainer` that ends each checkpoint with a manifest, and then removes old ones.

    The Trainer removes old checkpoints when those of the other processes may not be written yet.
    """

    args: RunArguments
    _rotates_later = False

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint. First remove the rest of an earlier one of this step, which was not whole.

        Raises:
            InputError: if the disk is full. The part that was written is removed.
        """
        args, limit = self.args, self.args.save_total_limit
        path = self._checkpoint_of_step
        if args.should_save and path.exists():
            remove_checkpoint(path)
        self.accelerator.wait_for_everyone()
        self._rotates_later = True
        try:
            with written(path):
                self._write_checkpoint(path, model, trial)
                self.accelerator.wait_for_everyone()
                if args.should_save:
                    write_manifest(path)
        except InputError:
            if args.should_save:
                shutil.rmtree(path, ignore_errors=True)
            raise
        finally:
            self._rotates_later, args.save_total_limit = False, limit
        if args.should_save and limit:
            best = self.state.best_model_checkpoint
            found = checkpoints_in(path.parent)
            _rotate(found, limit, self.state.global_step, checkpoint_step(Path(best)) if best else None)

    @property
    def _checkpoint_of_step(self) -> Path:
        """The directory for a checkpoint of this step."""
        return Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")

    def _write_checkpoint(self, path: Path, model: Any, trial: Any) -> None:
        """Write the files of a checkpoint.

        Args:
            path: its directory.
            model, trial: the arguments of `Trainer._save_checkpoint`.
        """
        super()._save_checkpoint(model, trial)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model and the arguments. The Trainer writes these two first into a checkpoint."""
        super().save_model(*args, **kwargs)
        # Only now, since training_args.bin keeps the user's limit. With a limit, the Trainer would go on to remove
        # older checkpoints before this one is whole.
        if self._rotates_later:
            self.args.save_total_limit = None

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Finish, and keep the last checkpoint, which says that the training is done.

        With a limit of one, the Trainer would remove it if another one is the best.
        """
        self.forget_damaged_best(f"the model of step {self.state.global_step} is saved")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def check_fits(self, checkpoint: str) -> None:
        """Raise an `InputError` if a checkpoint holds weights of other sizes than the model's."""
        model: Any = self.model
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        for path in sorted(Path(checkpoint).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no dictionary
                    stored = tuple(file.get_slice(name).get_shape())
                    if shapes.get(name, stored) != stored:
                        raise InputError(
                            f"--resume_from_checkpoint: {checkpoint} holds {name} with the shape {stored}, and this "
                            f"model has {shapes[name]}; give a checkpoint of this model"
                        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the model, so that whoever may read its other files may read its weights.

        safetensors writes files that only their owner may read, whatever the umask. A work-around; no thread known.
        """
        super()._save(output_dir, state_dict)
        if not self.args.should_save:  # the Trainer calls this in each process
            return
        directory = Path(output_dir or str(self.args.output_dir))
        with contextlib.suppress(OSError):  # some file systems have no modes
            mode = (directory / "training_args.bin").stat().st_mode
            for path in directory.glob("*.safetensors"):
                path.chmod(mode)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        check_saved_with(resume_from_checkpoint, self.is_fsdp_enabled)
        with _loaded(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of weights that a checkpoint lacks, but not of tied ones, which are stored once.

        A work-around; no thread known. It can go when the Trainer does not call tied weights missing.
        """
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _loaded(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _loaded(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _loaded(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        with _loaded(self.state.best_model_checkpoint):
            super()._load_best_model()

    def forget_damaged_best(self, instead: str) -> None:
        """If the best model is to be loaded, but its weights are not whole, forget it, and say why.

        All processes do as the first one finds. So all must call this.

        Args:
            instead: what becomes of the run without it, as the end of a sentence.
        """
        state = self.state
        if not (self.args.load_best_model_at_end and state.best_global_step):
            return
        path, problem = state.best_model_checkpoint, None
        if self.is_world_process_zero():
            problem = find_damage(path, of_weights=True) if path and os.path.isdir(path) else "it is not there"
        problem, state.best_model_checkpoint = broadcast_object_list([problem, path])
        if problem:
            name = path or f"checkpoint-{state.best_global_step}"
            logger.warning("%s, the best checkpoint so far, is not used: %s; %s", name, problem, instead)
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None


def check_saved_with(checkpoint: str, fsdp: bool) -> None:
    """Raise an `InputError` if a checkpoint was saved with --fsdp and this run is without it, or the other way."""
    saved = next(Path(checkpoint).glob("pytorch_model_fsdp*"), None) is not None
    if saved != fsdp:
        advice = "drop --fsdp, or give the checkpoint as --model_name_or_path" if fsdp else "give --fsdp, too"
        raise InputError(
            f"--resume_from_checkpoint: {checkpoint} holds {'a' if saved else 'no'} state of --fsdp, so a run with"
            f"{'' if fsdp else 'out'} it cannot go on from there; {advice}"
        )


def _loaded(checkpoint: str | os.PathLike[str] | None) -> contextlib.AbstractContextManager[None]:
    """Report in one sentence that a checkpoint cannot be loaded, but not that another process has ended."""

    def explain(error: Exception, cause: str) -> str:
        if is_of_lost_process(error):
            raise error
        advice = "give one of this model, or remove it to go on from the one before"
        return f"--resume_from_checkpoint: {checkpoint} cannot be loaded ({cause}); {advice}"

    return reported(explain)


def _rotate(checkpoints: list[Path], limit: int, step: int, best: int | None) -> None:
    """Remove the oldest of checkpoints, but not that of this step, and not the best one.

    Checkpoints of later steps are removed first. They are damaged: otherwise this run would have gone on from them.
    """
    kept = {step} if best is None else {step, best}
    later_first = sorted(checkpoints, key=lambda path: checkpoint_step(path) <= step)
    removable = [path for path in later_first if checkpoint_step(path) not in kept]
    for path in removable[: max(len(checkpoints) - max(limit, len(kept)), 0)]:
        remove_checkpoint(path, ignore_errors=True)
