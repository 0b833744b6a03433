"""SHA-256 and SHA-512: the published vectors, hashlib, and every way to cut the same bytes into pieces."""

from __future__ import annotations

import array
import hashlib
import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror._native import hashing as native
from tests.twins import hashing as twin

# FIPS 180-4 examples and the long messages of NIST's "Cryptographic Standards and Guidelines: Example Values".
_TWO_BLOCKS = (
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"
)
VECTORS = [
    ("sha256", b"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("sha256", b"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        "sha256",
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        1,
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    ("sha256", b"a", 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ("sha256", b"\0", 1_000_000, "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025"),
    (
        "sha512",
        b"",
        1,
        (
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
            "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
        ),
    ),
    (
        "sha512",
        b"abc",
        1,
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ),
    ),
    (
        "sha512",
        _TWO_BLOCKS,
        1,
        (
            "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
            "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"
        ),
    ),
    (
        "sha512",
        b"a",
        1_000_000,
        (
            "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
            "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b"
        ),
    ),
]

KINDS = [
    pytest.param(module, algorithm, name, id=f"{module.__name__.split('.')[1].strip('_')}-{algorithm}-{name}")
    for module in (native, twin)
    for algorithm in ("sha256", "sha512")
    for name in module.implementations(algorithm)
]
MODULES = [pytest.param(native, id="native"), pytest.param(twin, id="twin")]


@pytest.mark.parametrize(("module", "algorithm", "implementation"), KINDS)
class TestEveryImplementation:
    def test_gives_the_published_digests(self, module: Any, algorithm: str, implementation: str) -> None:
        for name, piece, times, digest in VECTORS:
            if name == algorithm:
                hasher = module.Hasher(algorithm, implementation)
                hasher.update(piece * times)
                assert hasher.hexdigest() == digest
                assert hasher.implementation == implementation

    def test_gives_what_hashlib_gives_for_every_length_around_a_block(
        self, module: Any, algorithm: str, implementation: str
    ) -> None:
        content = random.Random(1).randbytes(600)
        for size in range(600):
            hasher = module.Hasher(algorithm, implementation)
            hasher.update(content[:size])
            assert hasher.digest() == hashlib.new(algorithm, content[:size]).digest(), size

    def test_gives_the_same_however_the_bytes_are_cut(self, module: Any, algorithm: str, implementation: str) -> None:
        @given(st.lists(st.integers(0, 400), max_size=20), st.integers(0, 2**32))
        def check(sizes: list[int], seed: int) -> None:
            content = random.Random(seed).randbytes(sum(sizes))
            hasher, at = module.Hasher(algorithm, implementation), 0
            for size in sizes:
                hasher.update(memoryview(content)[at : at + size])
                at += size
                assert hasher.digest() == hashlib.new(algorithm, content[:at]).digest()
            assert hasher.length == at

        check()

    def test_goes_on_after_a_copy_and_so_does_the_copy(self, module: Any, algorithm: str, implementation: str) -> None:
        first = module.Hasher(algorithm, implementation)
        first.update(b"x" * 100)
        second = first.copy()
        first.update(b"a" * 70)
        second.update(b"b" * 70)
        assert first.digest() == hashlib.new(algorithm, b"x" * 100 + b"a" * 70).digest()
        assert second.digest() == hashlib.new(algorithm, b"x" * 100 + b"b" * 70).digest()
        assert (first.length, second.length) == (170, 170)
        assert second.implementation == implementation

    def test_knows_its_sizes(self, module: Any, algorithm: str, implementation: str) -> None:
        hasher = module.Hasher(algorithm, implementation)
        assert hasher.algorithm == algorithm
        assert hasher.digest_size == len(hasher.digest()) == hashlib.new(algorithm).digest_size
        assert hasher.hexdigest() == hasher.digest().hex()


@pytest.mark.parametrize("module", MODULES)
class TestHasher:
    def test_the_portable_implementation_is_always_there_and_the_fastest_is_the_default(self, module: Any) -> None:
        for algorithm in ("sha256", "sha512"):
            names = module.implementations(algorithm)
            assert names[-1] == "portable"
            assert module.Hasher(algorithm).implementation == names[0]

    @pytest.mark.parametrize("algorithm", ["", "md5", "SHA256", "sha256 ", "sha384", "sha\u00e9"])
    def test_refuses_an_unknown_algorithm_and_says_which_there_are(self, module: Any, algorithm: str) -> None:
        with pytest.raises(ValueError, match="use sha256 or sha512"):
            module.Hasher(algorithm)
        with pytest.raises(ValueError, match="use sha256 or sha512"):
            module.implementations(algorithm)

    def test_refuses_an_implementation_that_is_not_here(self, module: Any) -> None:
        with pytest.raises(ValueError, match="no implementation 'abacus'"):
            module.Hasher("sha256", "abacus")

    def test_takes_every_contiguous_buffer_and_no_other(self, module: Any) -> None:
        numbers = array.array("I", range(10_000))
        for data in (b"bytes", bytearray(b"array"), memoryview(b"view"), numbers, b"", bytearray()):
            hasher = module.Hasher("sha256")
            hasher.update(data)
            assert hasher.digest() == hashlib.sha256(data).digest()
        hasher = module.Hasher("sha256")
        with pytest.raises(BufferError):
            hasher.update(memoryview(b"0123456789")[::2])
        with pytest.raises(TypeError):
            hasher.update("text")
        assert hasher.digest() == hashlib.sha256(b"").digest()


def test_more_than_four_gigabits_are_counted_in_full() -> None:
    for algorithm in ("sha256", "sha512"):
        hasher, twin_hasher, piece = native.Hasher(algorithm), hashlib.new(algorithm), bytes(1 << 20)
        for _ in range(520):  # 2^32 bits are 512 MiB: the length does not fit in 32 bits any more
            hasher.update(piece)
            twin_hasher.update(piece)
        assert hasher.length == 520 << 20
        assert hasher.digest() == twin_hasher.digest()


def test_two_threads_cannot_use_one_hasher_at_once_and_the_gil_is_free_meanwhile() -> None:
    hasher, data = native.Hasher("sha512", "portable"), bytes(64 << 20)
    thread = threading.Thread(target=hasher.update, args=(data,))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            hasher.digest()
        except RuntimeError as error:
            assert "in use" in str(error)  # noqa: PT017 (it may as well come too early or too late to be refused)
            refused += 1
    thread.join()
    assert refused
    assert hasher.digest() == hashlib.sha512(data).digest()


def test_a_refused_update_changes_nothing() -> None:
    hasher = native.Hasher("sha256")
    hasher.update(b"abc")
    with pytest.raises(TypeError):
        hasher.update(None)
    assert hasher.hexdigest() == VECTORS[1][3]
    assert hasher.length == 3
