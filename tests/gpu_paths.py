"""Unsloth's and TRL's code for CUDA, looked at on a machine without one; prints what it finds as JSON.

Run in a process of its own: UNSLOTH_ALLOW_CPU=1 makes the import CUDA-shaped, and it cannot be undone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import os
import sys
import types

os.environ["UNSLOTH_ALLOW_CPU"] = "1"
os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"


def head_gradient(llama) -> list[float]:
    """Gradient per position that reaches the hidden states (1, 5, 4) through Unsloth's own forward, logits_to_keep=1."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(1, 5, 4, requires_grad=True)
    output = types.SimpleNamespace(past_key_values=None, hidden_states=None, attentions=None)

    class Backbone(torch.nn.Module):
        def forward(self, **_):
            class Outputs:
                def __getitem__(self, place):
                    return (hidden,)[place]

                def __getattr__(self, name):
                    return getattr(output, name)

            return Outputs()

    class Causal(torch.nn.Module):
        forward = llama.CausalLM_fast_forward(None)

    causal = Causal()
    causal.model, causal.lm_head = Backbone(), torch.nn.Linear(4, 7, bias=False)
    causal.config = types.SimpleNamespace(
        output_attentions=False,
        output_hidden_states=False,
        return_dict=True,
        use_return_dict=True,
        torch_dtype="float32",
        dtype="float32",
        model_type="qwen3",
    )
    os.environ["UNSLOTH_RETURN_HIDDEN_STATES"] = "0"
    logits = causal(input_ids=torch.zeros(1, 5, dtype=torch.long), logits_to_keep=1).logits[:, -1]
    torch.log_softmax(logits.float(), -1)[0, 3].backward()
    return hidden.grad.abs().sum(-1)[0].tolist()


def main() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        import unsloth
        from unsloth.models import rl

        # With 1 Unsloth leaves TRL's trainers in place; with 0 it writes and installs those for CUDA.
        os.environ["UNSLOTH_ALLOW_CPU"] = "0"
        rl.PatchFastRL(FastLanguageModel=unsloth.FastLanguageModel)
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
        from unsloth import FastLanguageModel
        from unsloth.models import _utils, llama, qwen3
        from unsloth_zoo.vllm_utils import load_lora

    def parameters(function) -> list[str]:
        return list(inspect.signature(function).parameters)

    score = inspect.getsource(sys.modules[GRPOTrainer.__mro__[1].__module__])
    found = {
        "device": unsloth.DEVICE_TYPE,
        "generated": [SFTTrainer.__name__, GRPOTrainer.__name__],
        "from_pretrained": parameters(FastLanguageModel.from_pretrained),
        "get_peft_model": parameters(llama.FastLlamaModel.get_peft_model),
        "qwen3": [cls.__name__ for cls in qwen3.FastQwen3Model.__mro__],
        "for_training": parameters(llama.FastLlamaModel.for_training),
        "for_inference": parameters(llama.FastLlamaModel.for_inference),
        "restore_transformers_family": parameters(llama.restore_transformers_family),
        "LoraConfig": [field.name for field in dataclasses.fields(LoraConfig)],
        "SFTConfig": parameters(SFTConfig),
        "GRPOConfig": parameters(GRPOConfig),
        "SFTTrainer": [name for cls in SFTTrainer.__mro__ for name in parameters(cls.__init__)],
        "GRPOTrainer": [name for cls in GRPOTrainer.__mro__ for name in parameters(cls.__init__)],
        "compute_loss": [parameters(cls.compute_loss) for cls in (SFTTrainer, GRPOTrainer)],
        "scored": [name for name in ("prompt_ids", "prompt_mask", "completion_ids") if f'"{name}"' in score],
        "load_source": inspect.getsource(llama.FastLlamaModel.from_pretrained),
        "peft_source": inspect.getsource(llama.FastLlamaModel.get_peft_model),
        "patch_peft_source": inspect.getsource(_utils.patch_peft_fast_inference),
        "load_lora": parameters(load_lora),
        "head_gradient": head_gradient(llama),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
