"""The Trainer of masked language modelling, in classes that build on each other, one concern each.

From transformers' `Trainer` up to `MlmTrainer`:

    checkpoints          whole or not there
    finite               numbers that blow up
    stopping             a signal ends a run after its step
    timing               tokens, and the time of evaluations and saves
    optimizer_resuming   the state of the optimizer
    resuming             the place in the training, also in steps of another size
    evaluating           the loop of an evaluation
    mlm_trainer          the loss, the batches and their order

A class overrides the methods of the Trainer that its concern needs, some of them private. Where several classes
override one, each calls that of the class before it:

    train                            stopping, resuming
    _inner_training_loop             finite, resuming
    _init_training_state             resuming, evaluating
    _prepare_for_training            timing, optimizer_resuming, resuming, mlm_trainer
    _run_epoch                       stopping, resuming
    training_step                    finite, mlm_trainer
    _maybe_log_save_evaluate         finite, stopping, resuming
    log                              timing, resuming
    _evaluate                        stopping, evaluating
    _save_checkpoint                 checkpoints, finite, stopping, timing
    _load_optimizer_and_scheduler    checkpoints, optimizer_resuming
    _finalize_training               checkpoints, finite, stopping, resuming

parameters, same_steps, fsdp and muon are no classes of this chain: what a program may not give, in which steps a
checkpoint cannot go on, how FSDP divides a model, and an optimizer.
"""
