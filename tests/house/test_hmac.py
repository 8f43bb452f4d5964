"""The keyed hash of arguments is HMAC-SHA256 and nothing of our own."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.house import hmac_under


@given(st.binary(max_size=64), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_is_the_hmac_of_the_standard_library(key: bytes, messages: list[bytes]) -> None:
    digest = hmac_under(key)
    for message in messages:  # several under one key: what is prepared once must not be used up
        assert digest(message) == hmac.digest(key, message, "sha256").hex()[:32]


def test_a_longer_key_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        hmac_under(b"k" * 65)
