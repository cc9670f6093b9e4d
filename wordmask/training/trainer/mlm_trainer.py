"""The Trainer with the loss, the batches and the evaluation of masked language modelling.

The docstring of this folder lists the classes that it builds on. The table in docs/design.md says how to log a figure
of the training batches, such as the share of masked words.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DynamoBackend, send_to_device
from torch.utils.data import DataLoader
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from wordmask.config.optimizer_checks import MUON
from wordmask.config.rate_schedule import RateSchedule
from wordmask.config.run_arguments import RunArguments
from wordmask.data.collator import MaskingCollator, WithPositions
from wordmask.data.corpora import InTurn, quotas
from wordmask.data.order import EpochOrder
from wordmask.data.plan import Layout, Plan, Stage
from wordmask.data.sampler import Batches, EvaluationBatches, StagedBatches
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences
from wordmask.data.token_steps import TokenBatches, TokenCuts
from wordmask.data.tokenized_dataset import TokenizedDataset
from wordmask.data.whole_word_collator import WholeWordMaskCollator
from wordmask.masking import IGNORED
from wordmask.models.compilation import compile_layers, keep_gradients
from wordmask.models.forward import Forward
from wordmask.models.micro_batches import divide_batch
from wordmask.training.display.live_output import LiveOutput
from wordmask.training.report.model_card import write_card
from wordmask.training.report.pages import only_warned
from wordmask.training.trainer.evaluating import EvaluatingTrainer
from wordmask.training.trainer.fsdp import tied_weights_together
from wordmask.training.trainer.muon import muon_of
from wordmask.training.trainer.parameters import (
    as_sequences,
    as_stages,
    check_collator,
    check_metric,
    check_parameters,
    check_program,
    check_same_tokenizer,
    longest_text,
    look_for_words,
)
from wordmask.utils.errors import InputError
from wordmask.utils.memory import keep_freed_memory
from wordmask.utils.workers import end_loader_workers_at_exit, loader_context, prepare_loader_worker


class MlmTrainer(EvaluatingTrainer):
    """A `Trainer` that masks whole words, and whose loss belongs to the whole effective batch.

    Most masked-LM heads accept `num_items_in_batch` and ignore it. So the Trainer's loss and gradients are too large,
    by the number of accumulation steps times that of processes. Here no model gets it. Instead, the mean of each
    micro-batch is scaled by its share of the labels of the effective batch. Evaluation sums losses and counts.

    A work-around: https://github.com/huggingface/transformers/issues/47688. It can go when
    `test_the_trainer_alone_would_fail_these_tests` fails.

    From Python, on any tokenized dataset, which a `WholeWordMaskCollator` masks:

        args = wordmask.RunArguments(output_dir="out", num_train_epochs=3)
        trainer = wordmask.MlmTrainer(model, args, train, validation, processing_class=tokenizer)
        trainer.train()
        print(trainer.evaluate())  # eval_loss, eval_perplexity, eval_accuracy, eval_whole_word_accuracy

    It shows what the `Trainer` shows; with `RunArguments(log_format="rich")` or `"plain"`, what the scripts show.

    Masks depend on the collator's seed (that of `args` without a collator), the epoch and the example alone, so that a
    resume on the same data continues with the same ones.

    Args:
        model: any masked language model.
        args: the run's arguments.
        train_dataset, eval_dataset: any dataset of dicts with `input_ids`, see `WholeWordMaskCollator`; or sequences
            from `wordmask.data.sequences`.
        processing_class: the tokenizer, saved with the model.
        data_collator: makes batches; `None` for a `WholeWordMaskCollator` with its defaults and the run's seed.
        eval_collator: the same for evaluation, with a rate, a strategy and a seed of its own; `None` for one made from
            `data_collator`, whose masks do not depend on its seed or `args.seed`, but on `args.data_seed` alone.
        rates: the masking rate over the training, such as 0.15 or `"0.30:0.15"`, see `--mlm_probability`; `None` for
            that of `data_collator`.
        forward: the forward pass; `None` for one with sparse prediction, if the model can.
        options: other parameters of the `Trainer`, such as `callbacks` and `optimizers`, and of the classes that this
            one builds on.

    Raises:
        InputError: (a `ValueError`) for a dataset without a length or without `input_ids`, a collator that does not
            mask words, a tokenizer with more ids than the model, other arguments than `RunArguments`, parameters of
            the `Trainer` that would not be called, such as `compute_metrics`, or several GPUs in one process.
    """

    loss_is_scaled_for_ga = True  # `compute_loss` scales it

    def __init__(
        self,
        model,
        args: RunArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: MaskingCollator | WholeWordMaskCollator | None = None,
        eval_collator: MaskingCollator | WholeWordMaskCollator | None = None,
        rates: RateSchedule | str | float | None = None,
        forward: Forward | None = None,
        **options: Any,
    ):
        check_parameters(model, args, eval_dataset, processing_class or data_collator, options)
        train_sequences, eval_sequences = as_stages(train_dataset), as_sequences(eval_dataset)
        if train_sequences is not None:
            check_metric(args, eval_sequences, options.get("probe") is not None)
        collator = data_collator or WholeWordMaskCollator(processing_class, seed=args.mask_seed)
        if rates is None or eval_collator is None:  # else it may be any that makes batches
            check_collator(collator, "data_collator")
        check_same_tokenizer(processing_class, data_collator=data_collator, eval_collator=eval_collator)
        own_rates = None
        if isinstance(eval_collator, WholeWordMaskCollator):
            own_rates, eval_collator = eval_collator.rates, eval_collator.for_evaluation(eval_collator.seed)
        if isinstance(collator, WholeWordMaskCollator):
            check_program(args, model, collator.vocabulary.highest_used)
            look_for_words(collator, train_dataset, eval_dataset)
            rates = collator.rates if rates is None else rates
            eval_collator = eval_collator or collator.for_evaluation(args.evaluation_seed)
        check_collator(eval_collator, "eval_collator")
        rates = rates if isinstance(rates, RateSchedule) else RateSchedule.of(rates, flag="rates")
        if args.optim == MUON:
            options.setdefault("optimizer_cls_and_kwargs", muon_of(model, args))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_sequences,
            eval_dataset=eval_sequences,
            processing_class=processing_class,
            eval_collator=eval_collator,
            forward=forward,
            **options,
        )
        self.train_sequences, self.eval_sequences, self.collator = train_sequences, eval_sequences, collator
        self.rates, self.eval_rate = replace(rates, seed=args.mask_seed), (own_rates or rates).final
        self._cuts: dict[str, TokenCuts] = {}  # by --train_sampling_strategy
        if args.log_format:  # else the Trainer's own bars and dictionaries stay
            self.remove_callback(DEFAULT_PROGRESS_CALLBACK)
            self.remove_callback(PrinterCallback)
            self.add_callback(LiveOutput(self.tokens, rates.final if self.forward.sparse else 1.0, self._recorded))
        compiling = args.torch_compile_backend, args.torch_compile_mode, args.activation_memory_budget
        if args.torch_compile and compile_layers(model, self.forward.head, *compiling):
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO  # it would compile the whole model again
        if args.device.type == "cpu":
            keep_freed_memory()

    def _recorded(self) -> dict[str, float]:
        return self.history.previous_metrics() if self.history is not None else {}

    # Batches

    def _loader(
        self,
        dataset: Sequences | StagedSequences | StreamedSequences | TokenizedDataset,
        collator: MaskingCollator | WholeWordMaskCollator,
        on_device: bool = True,
        **batches: Any,
    ) -> DataLoader:
        """Batches of a dataset, by default on the device that trains. Nothing waits until they are there."""
        args, workers = self.args, self.args.dataloader_num_workers
        if workers:
            end_loader_workers_at_exit()
        # A batch that is divided needs the positions of its parts alone. (A script has cut its text already.)
        has_positions = isinstance(collator, MaskingCollator) or self.forward.micro_batch_tokens is not None
        loader = DataLoader(
            dataset,
            collate_fn=collator if has_positions else WithPositions(collator, longest_text(self.model)),
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=loader_context(args.dataloader_multiprocessing_context) if workers else None,
            worker_init_fn=prepare_loader_worker if workers else None,
            **batches,
        )
        # Each process has its own batches already, so accelerate only moves them to the device.
        one_process: dict[str, Any] = {"num_processes": 1, "process_index": 0, "dispatch_batches": False}
        return prepare_data_loader(
            loader, args.device, **one_process, put_on_device=on_device, non_blocking=loader.pin_memory
        )

    def _layout(self, batch_size: int, accumulation: int) -> Layout:
        return Layout(batch_size, accumulation, self.args.world_size, self.args.process_index)

    def get_train_dataloader(self) -> DataLoader:
        """Batches whose order and masks depend on the seed and the epoch alone."""
        sequences = self.train_sequences
        if sequences is None:
            raise InputError("train_dataset is missing; give a dataset to train on")
        # A batch is divided on the CPU, where its lengths are known without waiting.
        on_device = not self.forward.micro_batch_tokens
        if isinstance(sequences, StreamedSequences):
            size, drop_last = self._train_batch_size, self.forward.fixed
            return self._loader(sequences, self.collator, on_device, batch_size=size, drop_last=drop_last)
        self.make_plan()  # --auto_find_batch_size may have changed the size of a batch
        return self._loader(sequences, self.collator, on_device, batch_sampler=self.plan)

    def batches(self, sequences: StagedSequences) -> Plan:
        """This process's batches of the whole training, from the progress so far on."""
        args, stages = self.args, self._stages(sequences)
        length: dict[str, Any] = {
            "steps": args.max_steps if args.max_steps > 0 else None,
            "epochs": args.num_train_epochs,
            "done": self.done,
        }
        if args.tokens_per_step:
            order = str(args.train_sampling_strategy)
            if order not in self._cuts:
                self._cuts = {order: TokenCuts(stages[0], sequences.stages[0].lengths, args.tokens_per_step)}
            return TokenBatches(self._cuts[order], stages[0].layout, self.rates, **length)
        kind = StagedBatches if len(stages) > 1 else Batches
        return kind(stages, self.rates, fill=self.forward.fixed, drop_last=args.dataloader_drop_last, **length)

    def _stages(self, sequences: StagedSequences) -> list[Stage]:
        """The stages. Batches of shorter sequences hold more of them, so all have a similar number of tokens."""
        longest, stages = max(stage.length for stage in sequences.stages), []
        for stage, share, first in zip(sequences.stages, sequences.shares, sequences.bounds, strict=False):
            batch_size = self._train_batch_size * longest // stage.length
            layout = self._layout(batch_size, self.args.gradient_accumulation_steps)
            of_corpora = quotas(sequences.weights, len(stage)) if sequences.weights else []
            order = EpochOrder(str(self.args.train_sampling_strategy), self.args.mask_seed, stage, of_corpora)
            stages.append(Stage(len(stage), order, layout, share, first))
            if not stages[-1].steps(self.args.dataloader_drop_last):
                raise InputError(
                    f"--dataloader_drop_last: {len(stage)} sequences do not fill a step of {layout.step_size}; drop "
                    "it, or lower --per_device_train_batch_size"
                )
        return stages

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """All sequences once, corpus by corpus, the longest first, with the same masks in every evaluation."""
        sequences = self.eval_sequences if eval_dataset is None else as_sequences(eval_dataset)
        if sequences is None:
            raise InputError("eval_dataset is missing; give a dataset to evaluate on")
        layout, fill = self._layout(self.args.eval_batch_size, 1), self.forward.fixed
        bounds, names = getattr(sequences, "bounds", [0, len(sequences)]), getattr(sequences, "evaluated_apart", [])
        parts = []
        for start, stop in pairwise(bounds):
            order = start + np.argsort(-sequences.lengths[start:stop], kind="stable")
            parts.append(EvaluationBatches(order, layout, self.eval_rate, fill))
        return self._loader(sequences, self.eval_collator, batch_sampler=InTurn(parts, names))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The same, for `predict`, which returns metrics and stores no predictions."""
        return self.get_eval_dataloader(test_dataset)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused with an `InputError`: it needs new models, and this trainer has prepared one."""
        raise InputError(
            "hyperparameter_search: MlmTrainer prepares one model; make a trainer with a new model for each trial"
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our own card, since that of transformers links to the hub even for a local directory."""
        if self.is_world_process_zero():
            with only_warned("the model card"):
                write_card(str(self.args.output_dir))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model for several processes; under FSDP2, keep its tied weights together."""
        plugin = self.accelerator.state.fsdp_plugin if self.accelerator.is_fsdp2 else None
        model: Any = self.model  # the Trainer lets it be `None`
        with tied_weights_together(model, plugin) if plugin else contextlib.nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """The number of labels in the effective batch, over accumulation and processes."""
        self.tokens.add(batch_samples)
        if not batch_samples:
            return None
        count = torch.stack([batch["labels"].ne(IGNORED).sum() for batch in batch_samples]).sum()
        return self.accelerator.reduce(count.to(device, non_blocking=True), "sum")

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Forward and backward through a batch, one micro-batch after the other."""
        if not self.forward.micro_batch_tokens:
            return self._pass(model, inputs, num_items_in_batch)
        losses = []
        micro_batches = list(divide_batch(inputs, self.forward.micro_batch_tokens, self.collator.pad_to_multiple_of))
        for number, micro_batch in enumerate(micro_batches, 1):
            # Processes exchange gradients once a batch, since they have different numbers of micro-batches.
            with contextlib.nullcontext() if number == len(micro_batches) else self.accelerator.no_sync(model):
                micro_batch = send_to_device(micro_batch, self.args.device, non_blocking=True)
                losses.append(self._pass(model, micro_batch, num_items_in_batch))
        return torch.stack(losses).sum()

    def _pass(self, *inputs: Any) -> torch.Tensor:
        """One forward and backward pass. Where CUDA graphs run, the next one would overwrite its gradients."""
        loss = super().training_step(*inputs)
        is_one_of_several = self.args.gradient_accumulation_steps > 1 or self.forward.micro_batch_tokens
        if is_one_of_several and self.args.captures_graphs:
            keep_gradients(inputs[0])
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The share of this micro-batch in the mean loss over the masked tokens of the effective batch.

        It is multiplied by the number of processes, since these average their gradients. Without
        `num_items_in_batch`, the mean over this micro-batch.
        """
        count = inputs["labels"].ne(IGNORED).sum()
        loss, outputs, _ = self.forward(model, inputs)
        if num_items_in_batch is not None:
            loss = loss * count * self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1)
        return (loss, outputs) if return_outputs else loss
