"""--attn_implementation: what is not installed is refused with what to install, and not as a fault of the model."""

from __future__ import annotations

import pytest
import torch

from wordmask.config import attention_checks
from wordmask.config.arguments import parse_arguments
from wordmask.config.attention_checks import check_attention, check_flash
from wordmask.utils.errors import InputError


def refused(name: str) -> str:
    with pytest.raises(InputError) as error:
        check_attention(name)
    return str(error.value)


@pytest.mark.parametrize("name", [None, "sdpa", "eager", "flex_attention"])
def test_what_every_pytorch_has_is_taken(name):
    check_attention(name)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_flash_attention_that_is_not_installed(monkeypatch, version):
    name = f"flash_attention_{version}"
    package, _ = attention_checks.FLASH[name]
    monkeypatch.setitem(attention_checks.FLASH, name, (package, lambda: False))
    assert refused(name) == f"--attn_implementation {name} needs a GPU and {package}; give sdpa instead"
    monkeypatch.setitem(attention_checks.FLASH, name, (package, lambda: True))
    check_attention(name)


@pytest.mark.parametrize(
    "device, is_half, capability, words",
    [
        ("cpu", True, (9, 0), "needs a GPU, and this run is on a CPU; give sdpa"),
        ("cuda", False, (9, 0), "computes in half precision only; add --bf16, or give sdpa"),
        ("cuda", True, (7, 5), "needs a newer GPU (NVIDIA's Ampere or later); give sdpa"),
    ],
)
def test_flash_attention_where_it_cannot_be(monkeypatch, device, is_half, capability, words):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(InputError) as error:
        check_flash("flash_attention_2", torch.device(device), is_half)
    assert words in str(error.value)
    check_flash("sdpa", torch.device(device), is_half)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_flash("flash_attention_2", torch.device("cuda"), True)


def test_the_flags_of_a_run_are_checked_unless_no_model_computes(monkeypatch, tmp_path):
    monkeypatch.setitem(attention_checks.FLASH, "flash_attention_2", ("flash-attn", lambda: True))
    needed = ["--model_type", "bert", "--train_file", __file__, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    asked = [*needed, "--attn_implementation", "flash_attention_2"]
    with pytest.raises(InputError, match="^--attn_implementation flash_attention_2 needs a GPU, and this run is on"):
        parse_arguments(asked)
    parse_arguments([*asked, "--preview_masking", "1"])


def test_every_flash_attention_of_transformers_is_checked():
    known = {
        name for name in attention_checks.ALL_ATTENTION_FUNCTIONS.valid_keys() if "flash" in name and "|" not in name
    }
    assert known == attention_checks.FLASH.keys()


def test_a_kernel_of_the_hub_without_its_package(monkeypatch):
    monkeypatch.setattr(attention_checks, "is_kernels_available", lambda: False)
    assert "pip install kernels" in refused("kernels-community/flash-attn2")


def test_names_that_are_not_known_or_are_for_generation():
    assert "did you mean sdpa?" in refused("sdp")
    assert "is not known" in refused("paged|eager")
