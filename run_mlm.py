#!/usr/bin/env python
"""Train a masked language model with token masking.

    python run_mlm.py bert-base-uncased train.txt valid.txt

    python run_mlm.py --model_name_or_path bert-base-uncased --train_file train.txt --validation_file valid.txt \\
        --output_dir out

    python run_mlm.py configs/demo.yaml --learning_rate 1e-4

`--help` lists the flags. README.md and docs/ say more.
"""

from __future__ import annotations

from collections.abc import Sequence

from wordmask.utils.script import reports_input_errors


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run with these arguments (`sys.argv[1:]` if `None`), and return the metrics."""
    from wordmask.training.start import start  # here, since a worker imports this script and needs no more

    return start("run_mlm.py", argv, masking_strategy="token", line_by_line=False)


def _mp_fn(index: int = 0) -> None:
    """The entry point of this script, and of launchers that start a process for each device (TPU)."""
    main()
    from wordmask.utils.launch import leave

    leave()


if __name__ == "__main__":
    _mp_fn()
