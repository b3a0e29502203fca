"""Tiny random models made by transformers, and folders that l402t wrote read back by it.

    models.py make DIR      one folder a variant, with weights, tokens and the logits that transformers computes
    models.py compare DIR   loads each NAME.out and asks for the very logits of NAME; a message and exit code 1 if not
    models.py logits FOLDER TOKENS OUT   the logits of one folder, f32, after each of the tokens of a JSON file
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

TOKENS = 48
SIZES = dict(vocab_size=160, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)


def sizes(**more):
    return {**SIZES, **more}


# name: (configuration, model, element type on disk, bytes a shard)
VARIANTS = {
    "llama-2": (LlamaConfig(**sizes(num_key_value_heads=4)), LlamaForCausalLM, torch.float32, "1GB"),
    "llama-3": (LlamaConfig(**sizes(rope_parameters=LLAMA3)), LlamaForCausalLM, torch.bfloat16, "40KB"),
    "smollm2": (LlamaConfig(**sizes(tie_word_embeddings=True, num_attention_heads=3, num_key_value_heads=1,
                                    hidden_size=48)), LlamaForCausalLM, torch.bfloat16, "1GB"),
    "tinyllama": (LlamaConfig(**sizes(num_key_value_heads=1)), LlamaForCausalLM, torch.float16, "1GB"),
    "llama-linear": (LlamaConfig(**sizes(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5))),
                     LlamaForCausalLM, torch.float32, "1GB"),
    "llama-dynamic": (LlamaConfig(**sizes(rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0))),
                      LlamaForCausalLM, torch.float32, "1GB"),
    "llama-biases": (LlamaConfig(**sizes(attention_bias=True, mlp_bias=True)), LlamaForCausalLM, torch.float32, "60KB"),
    "llama-head-dim": (LlamaConfig(**sizes(head_dim=24)), LlamaForCausalLM, torch.float32, "1GB"),
    "qwen2": (Qwen2Config(**sizes(tie_word_embeddings=True, rope_parameters=dict(rope_type="default",
              rope_theta=1000000.0))), Qwen2ForCausalLM, torch.bfloat16, "1GB"),
    "qwen2-window": (Qwen2Config(**sizes(use_sliding_window=True, sliding_window=7, max_window_layers=1)),
                     Qwen2ForCausalLM, torch.float32, "1GB"),
    "mistral-window": (MistralConfig(**sizes(sliding_window=9)), MistralForCausalLM, torch.float16, "50KB"),
    "mistral": (MistralConfig(**sizes(sliding_window=None, head_dim=32)), MistralForCausalLM, torch.float32, "1GB"),
}


def load(folder):
    # Eager attention follows the papers; the others differ in rounding.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def logits(folder, tokens):
    with torch.no_grad():
        return load(folder)(torch.tensor([tokens])).logits[0]


def write(path, values):
    with open(path, "wb") as file:
        file.write(values.contiguous().to(torch.float32).numpy().astype("<f4").tobytes())


def make(target):
    for name, (config, kind, dtype, shard) in VARIANTS.items():
        torch.manual_seed(len(name))
        model = kind(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                # Large enough that every part of the model shows in the logits, biases too.
                spread = 0.3 if parameter.dim() == 1 else 0.1
                parameter.copy_(torch.randn_like(parameter) * spread + (1.0 if "norm" in parameter_name else 0.0))
        folder = os.path.join(target, name)
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        tokens = torch.randint(0, config.vocab_size, (TOKENS,)).tolist()
        with open(folder + ".tokens.json", "w") as file:
            json.dump(tokens, file)
        write(folder + ".logits", logits(folder, tokens))


def compare(target):
    for name in VARIANTS:
        with open(os.path.join(target, name + ".tokens.json")) as file:
            tokens = json.load(file)
        before = logits(os.path.join(target, name), tokens)
        after = logits(os.path.join(target, name + ".out"), tokens)
        if not torch.equal(before, after):
            sys.exit(f"{name}: what l402t wrote gives other logits, by up to {(before - after).abs().max()}")
    print(f"{len(VARIANTS)} folders give the very logits they came with")


def main(command, *arguments):
    torch.set_num_threads(1)
    if command == "make":
        make(*arguments)
    elif command == "compare":
        compare(*arguments)
    else:
        folder, tokens, out = arguments
        with open(tokens) as file:
            write(out, logits(folder, json.load(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
