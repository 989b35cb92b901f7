"""tokenizer.json: read as it is, without the network; and small ones, in the same format, for seeded checkpoints."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"

#: Ids in bert-base-uncased, which networks descended from BERT have in their code.
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
#: Where bert-base-uncased has "!"; ASCII's other printable characters follow it, without the capitals.
FIRST_WORD = 999
#: Ids of Gemma's tokenizer.
GEMMA_PAD, GEMMA_EOS, GEMMA_BOS, GEMMA_UNK = 0, 1, 2, 3

#: The whole words of the small tokenizers; letters make up all others.
WORDS = (
    "an", "the", "of", "on", "in", "and", "with", "picture", "photo", "red", "green", "blue", "ball", "box", "cat", "dog",
    "traffic", "light", "person", "man", "woman", "room", "wall", "table", "street", "sky", "two", "three", "front",
)  # fmt: skip


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``, which neither cuts nor pads, and reads "<eos>" in a text as text. Raises ValueError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(f"{folder / TOKENIZER} is no tokenizer: {error}; fetch the checkpoint again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def write_wordpiece(folder: Path) -> int:
    """Writes a small one of BERT's kind: lower case, no accents, [CLS] text [SEP]. Returns the number of tokens.

    Special tokens, punctuation, digits and letters have the ids of bert-base-uncased.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens = [f"[unused{n}]" for n in range(FIRST_WORD)]
    special = {"[PAD]": PAD, "[UNK]": UNK, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    for token, place in special.items():
        tokens[place] = token
    tokens += [chr(code) for code in range(33, 127) if chr(code) not in string.ascii_uppercase]
    tokens += [f"##{char}" for char in string.ascii_lowercase + string.digits]
    tokens += WORDS
    ids = {token: place for place, token in enumerate(tokens)}
    assert len(ids) == len(tokens), "every token once"
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(folder / TOKENIZER))
    return len(tokens)


def write_byte_fallback(folder: Path) -> int:
    """Writes a small one of Gemma's kind: pieces with case kept, UTF-8 bytes for what is in no piece, text <eos>.

    Returns the number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    special = {"<pad>": GEMMA_PAD, "<eos>": GEMMA_EOS, "<bos>": GEMMA_BOS, "<unk>": GEMMA_UNK}
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_letters, *string.digits]
    tokens += string.punctuation
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                merges.append((word[: end - 1], word[end - 1]))
                tokens.append(word[:end])
    ids = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", GEMMA_EOS)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(folder / TOKENIZER))
    return len(tokens)
