"""--attn_implementation: what is not installed is refused with what to install, and not as a fault of the model."""

from __future__ import annotations

import pytest

from wordmask.config import attention_checks
from wordmask.config.attention_checks import check_attention
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
