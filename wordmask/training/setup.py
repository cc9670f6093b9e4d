"""Make the collators and the Trainer of a run."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wordmask.config.arguments import Arguments
from wordmask.config.data_arguments import DataArguments
from wordmask.config.run_arguments import LOGGING_STEPS
from wordmask.data.collator import MaskingCollator
from wordmask.data.labelled_examples import LabelledExamples
from wordmask.models.configuration import origin
from wordmask.models.forward import Forward
from wordmask.models.text_embedding import Embedder, hook_hidden_states
from wordmask.tokenization.readable import ReadableTokens
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.evaluation.history import EvaluationHistory
from wordmask.training.evaluation.predictions import SampleLines
from wordmask.training.evaluation.probe import Probe
from wordmask.training.inputs import RunSequences
from wordmask.training.records.evaluation_record import EvaluationRecord, read_evaluations
from wordmask.training.records.output_dir import evaluates_another
from wordmask.training.records.run_record import evaluates_a_training
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError, kind_of, one_line

EMPTY_BATCHES = 100  # that a step may have in any text: a short one may be tried with the flags for a long one


def make_collator(arguments: Arguments, vocabulary: Vocabulary, seed: int, **returned: bool) -> MaskingCollator:
    """The collator that masks as the arguments say; `returned` are its options for what a batch has."""
    training, masking = arguments.training, arguments.masking
    return MaskingCollator(
        vocabulary,
        masking.strategy,
        seed,
        masking.mask_replace_prob,
        masking.random_replace_prob,
        fixed=arguments.data.pad_to_max_length,
        pad_to_multiple_of=8 if training.half_dtype else 1,  # tensor cores work on tiles of 8
        **returned,  # type: ignore[arg-type]
        highest_rate=masking.rates.highest if arguments.data.pad_to_max_length else None,
    )


def make_trainer(
    arguments: Arguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    sequences: RunSequences,
    forward: Forward,
    probe: Probe | None,
) -> MlmTrainer:
    """Make the Trainer, and check that it can do what its arguments ask for."""
    training, data = arguments.training, arguments.data
    takes_default_order = "train_sampling_strategy" not in arguments.given
    if takes_default_order and data.line_by_line and not forward.flat:  # a flat batch has no padding to save
        training.train_sampling_strategy = "group_by_length"
    # On a CPU, where batches are divided, the positions of a micro-batch are found without waiting.
    whole, packed = forward.micro_batch_tokens is None, data.pack_sequences
    eval_collator = make_collator(arguments, vocabulary, training.evaluation_seed, positions=whole, word_ids=True)
    history = _history(arguments, sequences, tokenizer, eval_collator, forward.fixed)
    try:
        trainer = MlmTrainer(
            model,
            training,
            sequences.train,
            sequences.validation,
            tokenizer,
            make_collator(
                arguments, vocabulary, training.mask_seed, packed=packed, flat=forward.flat, positions=whole
            ),
            eval_collator,
            arguments.masking.rates,
            forward,
            history=history,
            probe=probe,
            kept_optimizer=arguments.model.model_name_or_path if arguments.model.keep_optimizer else None,
        )
        trainer.keeps_order = takes_default_order
        if training.do_train and trainer.optimizer_cls_and_kwargs is None:
            trainer.get_optimizer_cls_and_kwargs(training, model)  # may lack a package
    except InputError:
        raise
    except (HfHubHTTPError, ConnectionError) as error:
        raise InputError(f"--push_to_hub: the hub cannot make the repository ({one_line(error)})") from None
    except (ValueError, ImportError) as error:
        raise InputError(f"--optim, --report_to or another flag fails ({one_line(error)}); change it") from None
    if training.do_train:
        trainer.make_plan()
        _check_stages(trainer, data)
        if "logging_steps" not in arguments.given:  # short runs show a loss, too
            training.logging_steps = max(1, min(LOGGING_STEPS, math.ceil(trainer.planned_steps / 20)))
    return trainer


def make_probe(
    arguments: Arguments,
    examples: LabelledExamples | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    forward: Forward,
) -> Probe | None:
    """Make the probe of a run, and tokenize its examples; `None` without them.

    Args:
        arguments, examples, model, tokenizer, forward: of the run.
        length: the longest sequence, in tokens.

    Raises:
        InputError: if the model's encoder has no hidden state for each token.
    """
    if examples is None:
        return None
    hidden_states = hook_hidden_states(model, length if forward.fixed else min(length, 8))
    if isinstance(hidden_states, Exception):
        flag, value = origin(arguments.model)
        raise InputError(
            f"--probe_file: the encoder of {kind_of(model)} ({flag} {value}) has no hidden state for each "
            "token, so texts have no embeddings; drop the flag"
        )
    pad = tokenizer.pad_token_id or 0
    embedder = Embedder(hidden_states, examples.texts, tokenizer, length, pad, forward.fixed)
    return Probe(examples, embedder, arguments.training.eval_batch_size)


def _history(
    arguments: Arguments,
    sequences: RunSequences,
    tokenizer: PreTrainedTokenizerBase,
    collator: MaskingCollator,
    fixed: bool,
) -> EvaluationHistory | None:
    """Make the history of this run's evaluations; `None` if it has nothing to evaluate.

    An evaluation of what was trained in a directory is compared with the record there, but is not added to it.

    Args:
        arguments, sequences, tokenizer: of the run.
        collator: of its evaluations.
        fixed: whether every batch has the same size.
    """
    training, text = arguments.training, sequences.validation
    if text is None:
        return None
    foreign = evaluates_a_training(training)
    shown = foreign and not evaluates_another(arguments)
    evaluations = read_evaluations(training.output_dir, sys.maxsize) if shown else []
    record = EvaluationRecord(training.output_dir if training.process_index == 0 else None, evaluations)
    readable, rate = ReadableTokens(tokenizer), arguments.masking.rates.final
    lines = SampleLines(text, collator, rate, training.eval_batch_size, fixed, readable)
    shown_lines = lines if training.text_in_results else None
    return EvaluationHistory(record, shown_lines, readable, training.do_train, foreign, sequences.validation_digest)


def _check_stages(trainer: MlmTrainer, data: DataArguments) -> None:
    """Raise an `InputError` if the whole training has no step, or a step has far too many batches."""
    plan = trainer.plan
    if plan is None:
        return
    for stage in plan.stages:
        layout = stage.layout
        most = -(-stage.sequence_count // (layout.batch_size * layout.processes))
        if layout.accumulation > 10 * most + EMPTY_BATCHES:  # each empty batch goes through the model, too
            raise InputError(
                f"--gradient_accumulation_steps: {layout.accumulation} batches are far more than the {most} that the "
                f"text has; give {most} or less"
            )
    for (length, share), (begin, end) in zip(data.stages, pairwise(plan.step_bounds), strict=False):
        if begin == end:
            raise InputError(
                f"--length_schedule: {length}:{share:g} of {plan.step_bounds[-1]} steps is not one step; give it "
                "a larger share"
            )
