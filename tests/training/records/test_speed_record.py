"""The count of tokens."""

from __future__ import annotations

import torch

from wordmask.training.records.speed_record import TokenCount


def test_padding_does_not_count_as_tokens():
    tokens = TokenCount()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    tokens.add([{"input_ids": torch.zeros(2, 3), "attention_mask": mask}, {"input_ids": torch.zeros(1, 3)}])
    assert tokens.read() == 4 + 3
