"""One run, from its arguments to its results: `run` calls the steps in order; read it first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed

from wordmask.config.arguments import Arguments, parse_arguments
from wordmask.config.launch_checks import check_one_gpu
from wordmask.config.short_form import describe
from wordmask.data.labelled_examples import read_labelled
from wordmask.data.token_store import Tokenization
from wordmask.models.configuration import load_config
from wordmask.models.loading import load_model, load_tokenizer
from wordmask.models.more_positions import with_more_positions
from wordmask.models.token_embeddings import start_at_means
from wordmask.models.trial import place_and_try
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.choose_words import add_chosen_words
from wordmask.training.display.log_setup import set_up_output
from wordmask.training.dry_run.forecast import check_room
from wordmask.training.dry_run.plan import DryRun
from wordmask.training.header import describe_masking, describe_run, show_header
from wordmask.training.inputs import RunSequences, decide_tasks, load_run_texts, make_sequences, sequence_lengths
from wordmask.training.memory_errors import memory_errors_reported
from wordmask.training.prepare_only import prepare_only
from wordmask.training.preview import masked_examples, print_examples, write_examples
from wordmask.training.records.output_dir import (
    check_owner,
    claimed,
    evaluates_another,
    find_checkpoint,
    remove_older_run,
    written,
)
from wordmask.training.records.run_record import (
    DEVICE,
    Identity,
    check_processes_agree,
    read_run,
    resumes_with,
    write_run,
)
from wordmask.training.setup import make_collator, make_probe, make_trainer
from wordmask.training.tasks import evaluate, leave_text_out, publish, show_data_report, show_results, train
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.hub import check_push
from wordmask.utils.launch import waits_reported
from wordmask.utils.terminal import Fact, terminal

logger = logging.getLogger(__name__)


def run(script: str, argv: Sequence[str] | None, **defaults: Any) -> dict[str, float]:
    """Train and evaluate a masked language model as a command line says.

    Args:
        script: the script's name, for the record.
        argv: its arguments; `None` for `sys.argv[1:]`.
        defaults: the defaults of the script that differ from those of the dataclasses.

    Returns:
        The metrics of training and evaluation.

    Raises:
        InputError: for a user's mistake, before training begins.
    """
    arguments = parse_arguments(argv, **defaults)
    set_up_output(arguments.training)
    with memory_errors_reported(arguments), waits_reported(arguments.training.ddp_timeout):
        if arguments.data.prepare_only:
            return prepare_only(arguments)
        _check_start(arguments, script)
        with claimed(arguments), written(arguments.training.output_dir):
            return _run(script, arguments)


def _run(script: str, arguments: Arguments) -> dict[str, float]:
    training, previews = arguments.training, arguments.masking.preview_masking > 0
    checkpoint = None if previews else find_checkpoint(arguments)
    labelled = None if previews else read_labelled(arguments.probe, training.seed)
    set_seed(training.seed)

    config = load_config(arguments.model)  # refuses a wrong name before the text is read
    texts = load_run_texts(arguments)
    decide_tasks(arguments, texts)
    checkpoint = checkpoint if training.do_train else None  # an evaluation is of the model that was asked for
    terminal().doing("loading the tokenizer and the model")
    with training.main_process_first(desc="loading the tokenizer"):
        tokenizer = load_tokenizer(arguments.model, config, texts.get("train"), checkpoint)
        new_tokens = add_chosen_words(arguments.model, tokenizer, texts, checkpoint)
    vocabulary = Vocabulary.of(tokenizer)
    model, head_is_new = load_model(arguments.model, config, tokenizer)
    start_at_means(model, new_tokens)
    model = with_more_positions(model, tokenizer, arguments.model.max_position_embeddings)
    tokenization = Tokenization(tokenizer, arguments.data, arguments.needed_segmentation, arguments.model.cache_dir)
    if previews:
        lengths = sequence_lengths(arguments, model, tokenizer)
        sequences = make_sequences(texts, tokenization, arguments, lengths)
        return _preview(arguments, sequences, vocabulary, tokenizer, describe_masking(arguments, texts))

    identity = Identity.of(arguments, model, tokenizer, texts)
    check_processes_agree(arguments, identity, checkpoint)
    changed_settings = check_owner(arguments, identity, checkpoint)
    lengths = sequence_lengths(arguments, model, tokenizer)
    forward = place_and_try(arguments, model, len(vocabulary.maskable), max(lengths))
    probe = make_probe(arguments, labelled, model, tokenizer, max(lengths), forward)
    sequences = make_sequences(texts, tokenization, arguments, lengths)
    trainer = make_trainer(arguments, model, tokenizer, vocabulary, sequences, forward, probe)
    earlier = read_run(Path(checkpoint).parent) if checkpoint else None
    changed_steps = trainer.continue_from(checkpoint, earlier) if checkpoint else ""
    for line in changed_settings:
        logger.warning("this run was started with other settings: %s", line)
    described = describe_run(arguments, trainer, texts)
    if training.dry_run:
        sequences.report.warn()
        return DryRun(arguments, trainer, described).run(checkpoint, changed_steps)
    recorded = described | ({"head": "new"} if head_is_new else {})
    if earlier and earlier.device and trainer.is_finished():  # what it trained on, not what it is evaluated on
        recorded[DEVICE] = earlier.device
    resumes = resumes_with(earlier, trainer.done.step, changed_settings)
    write_record = partial(write_run, script, arguments, identity, recorded, resumes)
    writes_card = _begin(arguments, trainer, checkpoint, changed_settings, write_record)
    keeps_results = training.do_train and training.do_eval and not writes_card
    if keeps_results and trainer.history:
        trainer.history.foreign = True

    show_header(described, trainer, terminal())
    show_data_report(sequences.report, trainer)
    metrics = train(trainer, checkpoint, changed_steps) if training.do_train else {}
    if training.do_eval:
        metrics |= evaluate(trainer, combined=not keeps_results and not evaluates_another(arguments))
    publish(trainer, writes_card)
    if trainer.is_world_process_zero():
        show_results(metrics, trainer)
    return metrics


def _check_start(arguments: Arguments, script: str) -> None:
    """Say what the short form stands for; raise an `InputError` if this run cannot use its GPUs or push its model."""
    training = arguments.training
    if arguments.short_form and not arguments.only_evaluates:
        logger.warning("short form: %s", describe(arguments.short_form))
    if not arguments.masking.preview_masking:  # which computes nothing
        check_one_gpu(training.n_gpu, script)
    if training.push_to_hub and training.process_index == 0:
        check_push(training.hub_model_id, training.hub_token)
        if training.text_in_results and not training.dry_run:
            logger.warning(
                "--push_to_hub: the report and other results hold lines and words of your text, and are pushed, too; "
                "--no_text_in_results leaves text out"
            )
    training.push_to_hub = training.push_to_hub and not training.dry_run


def _preview(
    arguments: Arguments,
    sequences: RunSequences,
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    described: str,
) -> dict[str, float]:
    masking, shown = arguments.masking, sequences.train or sequences.validation
    collator = make_collator(arguments, vocabulary, arguments.training.mask_seed, word_ids=True)
    count, rates = masking.preview_masking, replace(masking.rates, seed=arguments.training.mask_seed)
    terminal().close()
    sequences.report.warn()
    examples = masked_examples(shown, count, collator, tokenizer, rates)  # type: ignore[arg-type]  # one of the two
    if masking.preview_file is None:
        print_examples(examples, Console())
    elif arguments.training.process_index == 0:
        write_examples(examples, masking.preview_file, described)
        terminal().show(Fact("preview", masking.preview_file))
    return {}


def _begin(
    arguments: Arguments,
    trainer: MlmTrainer,
    checkpoint: str | None,
    changed_settings: Sequence[str],
    write_record: Callable[[], None],
) -> bool:
    """Make the output directory this run's.

    Returns:
        Whether to write the model card. If a finished training is started again, its record and its card stay, unless
        there are new results for the card. An evaluation with other settings is none: then all results stay.
    """
    training, card = arguments.training, Path(arguments.training.output_dir, "README.md")
    writes_card = training.do_train
    if writes_card and trainer.is_finished():
        writes_card = not card.exists() or training.do_eval and not changed_settings
    trainer.accelerator.wait_for_everyone()  # all have read the record of the earlier run
    if trainer.is_world_process_zero():
        remove_older_run(arguments, checkpoint)
        if not training.text_in_results:
            leave_text_out(str(training.output_dir))
        if training.do_train and not trainer.is_finished():
            check_room(trainer)
        if writes_card or not training.do_train:
            write_record()
    trainer.accelerator.wait_for_everyone()
    return writes_card
