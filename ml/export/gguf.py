"""For llama.cpp and what is built on it: one GGUF file with weights, tokenizer and chat template."""

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
)

from ml.bad_input import BadInput
from ml.chat_template import END_OF_ANSWER, marker
from ml.config import ModelConfig
from ml.export.jinja_template import CHAT_TEMPLATE
from ml.export.source import Source
from ml.export.weights import rounded, tensors
from ml.tokenizer import END_OF_TEXT

DTYPES = ("fp32", "fp16", "bf16")
FILE = "model.gguf"
ABOUT = """\
For llama.cpp and what is built on it: `llama-cli --model model.gguf`, Ollama, LM Studio. The tokenizer and the chat
template are in the file."""
SNIPPET = """\
# pip install xllamacpp
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = "FOLDER/model.gguf"
answer = xllamacpp.Server(parameters).handle_completions({"prompt": "Dart는", "max_tokens": 20, "temperature": 0})
print(answer["choices"][0]["text"])
"""
FILE_TYPES = {
    "fp32": LlamaFileType.ALL_F32,
    "fp16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
}
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What llama.cpp splits by under the name "qwen2"; it knows no patterns but those that it has names for."""


class GGUFImpossible(BadInput):
    """A model that llama.cpp cannot run."""

    page: ClassVar[str] = "export"


def write(source: Source, folder: Path, *, dtype: str) -> None:
    """Raises: GGUFImpossible, ml.export.weights.WeightsTooLarge."""
    writer = GGUFWriter(folder / FILE, MODEL_ARCH_NAMES[MODEL_ARCH.QWEN3])
    writer.add_name(source.name)
    writer.add_license("apache-2.0")
    _add_shape(writer, source.config)
    writer.add_file_type(FILE_TYPES[dtype])
    _add_tokenizer(writer, source)
    _add_tensors(writer, source, dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, source: Source) -> None:
    tokenizer = source.tokenizer
    parts = json.loads(tokenizer.to_str())
    if not _splits_as_qwen2(parts):
        raise GGUFImpossible(
            f"The tokenizer of {source.name} splits words in a way that llama.cpp has no name for: "
            "export to another format, or make a tokenizer with `fai tokenizer` and train on it."
        )
    special = {token["content"] for token in parts["added_tokens"]}
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    # llama.cpp counts the embedding's rows by the list of tokens.
    spare = range(len(tokens), source.config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"[PAD{token}]" for token in spare)])
    writer.add_token_types([*types, *(TokenType.UNUSED for _ in spare)])
    writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])
    end_of_text = marker(tokenizer, END_OF_TEXT)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_pad_token_id(end_of_text)
    # llama.cpp stops at the end of a turn, too.
    writer.add_eot_token_id(marker(tokenizer, END_OF_ANSWER))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _splits_as_qwen2(parts: dict[str, Any]) -> bool:
    steps = (parts["pre_tokenizer"] or {}).get("pretokenizers", [])
    kinds = [(step["type"], step.get("pattern")) for step in steps]
    return parts["normalizer"] is None and kinds == [("Split", {"Regex": QWEN2_WORDS}), ("ByteLevel", None)]


def _add_tensors(writer: GGUFWriter, source: Source, *, dtype: str) -> None:
    names = get_tensor_name_map(MODEL_ARCH.QWEN3, source.config.n_layer)
    for name, tensor in tensors(source.checkpoint):
        gguf_name = names[name.removesuffix(".weight")] + ".weight"
        if tensor.dim() == 1:
            # llama.cpp's operations take norms in fp32 only.
            writer.add_tensor(gguf_name, tensor.numpy())
        elif dtype == "bf16":
            # numpy has no bfloat16; the shape of raw bytes is counted in bytes.
            raw = rounded(tensor, name=name, dtype=dtype).view(torch.uint8).numpy()
            writer.add_tensor(gguf_name, raw, raw_dtype=GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(gguf_name, rounded(tensor, name=name, dtype=dtype).numpy())
