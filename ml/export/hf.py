"""For Hugging Face's transformers: safetensors, and the JSON files that make a folder a pretrained model.

The JSON is written by hand, because each version of transformers writes names that the one before refuses; these are
read by 4.57 and by 5.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ml.chat_template import END_OF_ANSWER, marker
from ml.config import ModelConfig
from ml.export.jinja_template import CHAT_TEMPLATE
from ml.export.source import Source
from ml.export.weights import rounded, tensors
from ml.model import INITIAL_STD
from ml.tokenizer import END_OF_TEXT, SPECIAL_TOKENS

DTYPES = ("fp32", "bf16", "fp16")
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ABOUT = """\
For `transformers` from 4.57 on. `tokenizer.apply_chat_template` writes the format below, and `generate` stops at the
end of an answer or of a document."""
SNIPPET = """\
# pip install torch transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
tokens = model.generate(**tokenizer("Dart는", return_tensors="pt"), max_new_tokens=20, do_sample=False)
print(tokenizer.decode(tokens[0]))
"""


def write(source: Source, folder: Path, *, dtype: str) -> None:
    """Raises: ml.export.weights.WeightsTooLarge."""
    end_of_text, end_of_answer = (marker(source.tokenizer, name) for name in (END_OF_TEXT, END_OF_ANSWER))
    weights = {name: rounded(tensor, name=name, dtype=dtype) for name, tensor in tensors(source.checkpoint)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    source.tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    files: dict[str, dict[str, Any]] = {
        "config.json": _shape(source.config) | ends | {"torch_dtype": TORCH_NAMES[dtype]},
        "generation_config.json": ends | {"eos_token_id": [end_of_text, end_of_answer]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": source.config.block_size,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        | names,
        "special_tokens_map.json": names | {"additional_special_tokens": SPECIAL_TOKENS[1:]},
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shape(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.block_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "initializer_range": INITIAL_STD,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        # transformers 4 reads the first of these, 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }
