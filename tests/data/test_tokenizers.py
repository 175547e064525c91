"""The two tokenizers: separators, byte lengths, and GPT-2's vocabulary present or not."""

from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tiktoken.registry

from ngpt.data import tokenizers
from ngpt.data.tokenizers import Tokenizer
from ngpt.errors import InputError

DOCUMENTS = [b"of the sphere\n", "größer ≤ 1".encode(), b"\x00"]


class FakeGpt2:
    """What this project uses of tiktoken's encoding: here one token a character, so that no vocabulary is needed."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [ord(character) % 50256 for character in text]

    def decode_single_token_bytes(self, token: int) -> bytes:
        if token >= 50256:
            raise KeyError(token)
        return b"x" * (1 + token % 7)


def test_bytes_are_themselves_behind_a_separator() -> None:
    tokens = Tokenizer("bytes").encode(iter(DOCUMENTS))
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [256, *DOCUMENTS[0], 256, *DOCUMENTS[1], 256, 0]
    assert Tokenizer("bytes").vocab_size == 257


def test_gpt2_encodes_the_text_behind_a_separator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": FakeGpt2()}[name])
    tokens = Tokenizer("gpt2").encode(DOCUMENTS)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [50256, *DOCUMENTS[0], 50256, *map(ord, "größer ≤ 1"), 50256, 0]
    assert Tokenizer("gpt2").vocab_size == 50257


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_byte_lengths_count_text_and_no_separator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: FakeGpt2())
    tokenizer = Tokenizer(name)  # type: ignore[arg-type]
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,) and lengths[tokenizer.end_of_document] == 0
    expected = [1 + token % 7 for token in range(50256)] if name == "gpt2" else [1] * 256
    assert lengths[:-1].tolist() == expected


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_no_document_is_an_empty_stream(name: str) -> None:
    tokens = Tokenizer(name).encode([])  # type: ignore[arg-type]
    assert tokens.shape == (0,) and tokens.dtype == np.uint16


def test_gpt2_offline_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing cached, and a proxy that refuses."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for scheme in ("http", "https", "HTTP", "HTTPS"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="GPT-2's vocabulary is not cached and could not be fetched: .+"):
        Tokenizer("gpt2").encode([b"text"])


@pytest.mark.parametrize("error", [ValueError("two\nlines"), TimeoutError(), OSError(5, "Input/output error")])
def test_whatever_the_fetch_raises_becomes_an_input_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(InputError) as caught:
        tokenizers.Tokenizer("gpt2").byte_lengths()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", ["é", "é".encode(), ["é".encode()]], ids=repr)
def test_a_single_document_may_be_a_string(document: str | bytes | list[bytes]) -> None:
    assert Tokenizer("bytes").encode(document).tolist() == [256, 195, 169]
