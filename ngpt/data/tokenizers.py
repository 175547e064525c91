"""Two tokenizers with one interface: bytes, and GPT-2's BPE through tiktoken."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ngpt.errors import as_input_error

Tokens = NDArray[np.uint16]

BYTES_VOCAB = 257
"""256 byte values and the separator of documents."""
GPT2_VOCAB = 50257
"""GPT-2's vocabulary; its last id, 50256, separates documents."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer by name. It puts the token `end_of_document` before every document."""

    name: Literal["bytes", "gpt2"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return BYTES_VOCAB if self.name == "bytes" else GPT2_VOCAB

    @property
    def end_of_document(self) -> int:
        """Id of the separator of documents: the last one."""
        return self.vocab_size - 1

    def encode(self, documents: str | bytes | Iterable[bytes]) -> Tokens:
        """Encode documents as one stream (n,), each after a separator; a single one may be a string."""
        if isinstance(documents, str | bytes):
            documents = [documents.encode("utf-8") if isinstance(documents, str) else documents]
        separator = np.array([self.end_of_document], np.uint16)
        pieces: list[Tokens] = []
        for document in documents:
            plain = self.name == "bytes"
            ids = np.frombuffer(document, np.uint8) if plain else _gpt2().encode_ordinary(document.decode("utf-8"))
            pieces += [separator, np.asarray(ids, np.uint16)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint16)

    def decode(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of text that token ids stand for, in one piece; a separator stands for none."""
        text = (int(token) for token in ids if token != self.end_of_document)
        if self.name == "bytes":
            return bytes(text)
        encoding = _gpt2()
        return b"".join(encoding.decode_single_token_bytes(token) for token in text)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the bytes of text that each token id stands for, (vocab_size,); 0 for the separator."""
        if self.name == "bytes":
            return np.array([1] * 256 + [0], np.int64)
        encoding = _gpt2()
        lengths = [len(encoding.decode_single_token_bytes(token)) for token in range(GPT2_VOCAB - 1)]
        return np.array([*lengths, 0], np.int64)


def _gpt2():  # type: ignore[no-untyped-def]
    with as_input_error("GPT-2's tokens need the package tiktoken", ImportError):
        import tiktoken
    message = "GPT-2's vocabulary is not cached and could not be fetched"
    with as_input_error(message, Exception):  # tiktoken passes on whatever its HTTP client raises
        return tiktoken.get_encoding("gpt2")
