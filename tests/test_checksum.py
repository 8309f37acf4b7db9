"""CRC-32C: crcmod defines it, google-crc32c must agree, and sums of parts compose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft import checksum
from durable_raft.checksum import crc32c, crcmod_extend, extend, google_extend

KNOWN = [
    # RFC 3720 (iSCSI), appendix B.4.
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    # The check value of every CRC catalogue.
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), KNOWN)
def test_known_vectors(data: bytes, expected: int) -> None:
    """Published values come out of every implementation."""
    assert crc32c(data) == expected
    assert crcmod_extend(0, data) == expected
    google = google_extend()
    if google is not None:
        assert google(0, data) == expected


@given(data=st.binary(max_size=4096), crc=st.integers(0, 2**32 - 1))
def test_crcmod_and_google_agree(data: bytes, crc: int) -> None:
    """The two compute the same from any sum on, so that which one is installed never shows in stored bytes."""
    google = google_extend()
    if google is None:
        pytest.skip("google-crc32c is not installed with its C extension")
    assert google(crc, data) == crcmod_extend(crc, data)


@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_extend_composes(first: bytes, second: bytes) -> None:
    """Summing in parts is summing the whole."""
    whole = crc32c(first + second)
    assert extend(crc32c(first), second) == whole
    assert crcmod_extend(crcmod_extend(0, first), second) == whole


@given(data=st.binary(min_size=1, max_size=300), bit=st.integers(0, 2**31))
def test_any_flipped_bit_shows(data: bytes, bit: int) -> None:
    """A CRC finds every single-bit error."""
    bit %= len(data) * 8
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    assert crc32c(bytes(flipped)) != crc32c(data)


def test_implementation_names_what_is_used() -> None:
    """The name tells the fast implementation from the slow ones."""
    expected = {"google-crc32c"} if google_extend() is not None else {"crcmod", "crcmod-pure"}
    assert checksum.implementation() in expected


def test_implementation_is_named_without_google_crc32c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only crcmod is there, it is said whether it runs in C or in slow Python."""
    assert checksum.implementation() in ("google-crc32c", "crcmod", "crcmod-pure")
    monkeypatch.setattr(checksum, "_fast", None)
    assert checksum.implementation() in ("crcmod", "crcmod-pure")
