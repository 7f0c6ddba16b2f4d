"""transformers in float32 as the first reference: the stage values come from hooks on its own modules."""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3

import reference as ref


def to_numpy(tensor):
    """Without the batch dimension, float64 for comparison (the values are float32)."""
    array = tensor.detach().cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def quantise_input(x, ue8m0):
    """1x128 activation quantisation with torch's own float8 cast; written apart from reference.act_quant."""
    parts = []
    for part in x.split(128, -1):
        scale = part.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448.0
        if ue8m0:
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        parts.append((part / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(parts, -1)


class Transformers:
    """A transformers model on the dequantised weights of a checkpoint.

    cache="bf16" rounds the normed latent and the rotated key where they would enter the cache;
    activations="fp8" quantises the inputs of q_a, q, q_b, kv_a, o, gate, up and down.
    """

    def __init__(self, config, weights, cache="f32", activations="f32"):
        self.config, self.cache, self.activations = config, cache, activations
        self.ue8m0 = (config.get("quantization_config") or {}).get("scale_fmt") == "ue8m0"
        self.v2 = config["model_type"] == "deepseek_v2"
        dropped = ("quantization_config", "architectures", "model_type", "torch_dtype", "dtype", "auto_map",
                   "num_nextn_predict_layers")
        kept = {key: value for key, value in config.items() if key not in dropped}
        hf_config = (DeepseekV2Config if self.v2 else DeepseekV3Config)(**kept, attn_implementation="eager")
        hf_config._experts_implementation = "eager"
        self.weights = weights
        self.model = (DeepseekV2ForCausalLM if self.v2 else DeepseekV3ForCausalLM)(hf_config).float().eval()
        self.modeling = modeling_deepseek_v2 if self.v2 else modeling_deepseek_v3
        self.load(self.model, {name: name for name in self.model.state_dict()})
        for module in self.model.modules():
            # transformers builds the two latent norms with its default eps whatever the config says.
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = config["rms_norm_eps"]

    def tensor(self, name):
        return torch.from_numpy(self.weights[name].astype(np.float32))

    def stored(self, name):
        """A state-dict tensor from the checkpoint's tensors; experts are stacked as transformers stores them."""
        if name == "lm_head.weight" and name not in self.weights:
            return self.tensor("model.embed_tokens.weight")
        if ".mlp.experts." in name:
            prefix, part = name.rsplit(".", 1)
            experts = range(self.config["n_routed_experts"])
            if part == "down_proj":
                return torch.stack([self.tensor(f"{prefix}.{e}.down_proj.weight") for e in experts])
            return torch.stack([torch.cat([self.tensor(f"{prefix}.{e}.gate_proj.weight"),
                                           self.tensor(f"{prefix}.{e}.up_proj.weight")]) for e in experts])
        return self.tensor(name)

    def load(self, module, names):
        """names: state-dict name -> checkpoint name. Every parameter and persistent buffer has to be there."""
        module.load_state_dict({own: self.stored(name) for own, name in names.items()}, strict=True)

    # Hooks -------------------------------------------------------------------------------------------------------

    def interleave(self, x):
        """Rotary dimensions back to adjacent pairs: DeepseekV3 leaves them as (all first, all second) halves."""
        if self.v2:
            return x
        half = x.shape[-1] // 2
        return torch.stack([x[..., :half], x[..., half:]], -1).flatten(-2)

    def put(self, stage, layer, value, tensor):
        self.stages[(stage, layer, value)] = to_numpy(tensor.reshape(-1, tensor.shape[-1]))

    def watch(self, layers):
        """Hooks on decoder layers given as {layer number: module}; returns handles."""
        handles = []
        for number, layer in layers.items():
            attn = layer.self_attn

            def out(module, stage, value, number=number):
                handles.append(module.register_forward_hook(
                    lambda _, __, output: self.put(stage, number, value, output)))

            out(layer.input_layernorm, "AttnNorm", "normed")
            out(layer.post_attention_layernorm, "FfnNorm", "normed")
            out(attn.o_proj, "AttnOut", "delta")
            out(layer, "FfnReduce", "x")
            if attn.q_lora_rank is not None:
                out(attn.q_a_layernorm, "Latents", "q_latent")
            out(attn.q_b_proj if attn.q_lora_rank is not None else attn.q_proj, "Query", "q")
            handles.append(layer.post_attention_layernorm.register_forward_pre_hook(
                lambda _, args, number=number: self.put("AttnReduce", number, "x", args[0])))
            handles.append(attn.o_proj.register_forward_pre_hook(
                lambda _, args, number=number: self.put("Attend", number, "attn", args[0])))
            handles.append(attn.kv_a_layernorm.register_forward_hook(
                lambda _, __, output, number=number: self.on_latent(number, output)))
            if hasattr(layer.mlp, "experts"):
                out(layer.mlp, "Combine", "delta")
                out(layer.mlp.shared_experts, "Shared", "shared")
                handles.append(layer.mlp.gate.register_forward_hook(
                    lambda _, __, output, number=number: self.on_route(number, output)))
            else:
                out(layer.mlp, "Dense", "delta")
            if self.activations == "fp8":
                handles += self.quantise(layer)
        return handles

    def on_latent(self, number, output):
        self.current, self.latent = number, output
        return output.bfloat16().float() if self.cache == "bf16" else output

    def on_rotated(self, q, k):
        """Called with the rotated parts, q (1, heads, T, rope) and k (1, 1, T, rope), in transformers' order."""
        number, nope = self.current, self.config["qk_nope_head_dim"]
        row = torch.cat([self.latent[0], self.interleave(k)[0, 0]], -1)
        self.put("Latents", number, "kv_row", row)
        if self.cache == "bf16":
            k = k.bfloat16().float()
            self.put("Latents", number, "kv_stored", row.bfloat16().float())
        query = self.stages[("Query", number, "q")].reshape(row.shape[0], q.shape[1], -1).copy()
        query[..., nope:] = to_numpy(self.interleave(q)[0].transpose(0, 1))
        self.stages[("Query", number, "q")] = query.reshape(row.shape[0], -1)
        return q, k

    def on_route(self, number, output):
        _, expert_weights, ids = output
        ids, order = ids.sort(-1)
        expert_weights = expert_weights.gather(-1, order)
        self.stages[("Route", number, "expert_ids")] = ids.numpy()
        self.put("Route", number, "expert_weights", expert_weights)
        return output[0], expert_weights, ids

    def quantise(self, layer):
        def pre(_, args):
            return (quantise_input(args[0], self.ue8m0),) + args[1:]

        names = ("q_a_proj", "q_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj")
        handles = [module.register_forward_pre_hook(pre) for name, module in layer.named_modules()
                   if name.split(".")[-1] in names and isinstance(module, torch.nn.Linear)]
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts.forward = lambda *args, experts=layer.mlp.experts: self.quantised_experts(experts, *args)
        return handles

    def quantised_experts(self, experts, x, ids, expert_weights):
        out = torch.zeros_like(x)
        for expert in ids.unique().tolist():
            token, slot = torch.where(ids == expert)
            gate, up = F.linear(quantise_input(x[token], self.ue8m0), experts.gate_up_proj[expert]).chunk(2, -1)
            hidden = quantise_input(F.silu(gate) * up, self.ue8m0)
            out.index_add_(0, token, F.linear(hidden, experts.down_proj[expert]) * expert_weights[token, slot, None])
        return out

    def expert_outputs(self, layers):
        """Each slot's own expert, through transformers' experts with a weight of one."""
        for number, layer in layers.items():
            if not hasattr(layer.mlp, "experts"):
                continue
            ids = torch.from_numpy(self.stages[("Route", number, "expert_ids")])
            normed = torch.from_numpy(self.stages[("FfnNorm", number, "normed")].astype(np.float32))
            slots = [layer.mlp.experts(normed, ids[:, k : k + 1], torch.ones(len(ids), 1)) for k in range(ids.shape[1])]
            self.stages[("Routed", number, "expert_out")] = to_numpy(torch.stack(slots, 1))

    def run(self, layers, function):
        """Runs function with hooks on the layers and with the rotation watched."""
        self.stages = {}
        name = "apply_rotary_emb" if self.v2 else "apply_rotary_pos_emb_interleave"
        original = getattr(self.modeling, name)
        handles = self.watch(layers)
        setattr(self.modeling, name, lambda *args, **kwargs: self.on_rotated(*original(*args, **kwargs)))
        try:
            with torch.no_grad():
                result = function()
                self.expert_outputs(layers)
        finally:
            setattr(self.modeling, name, original)
            for handle in handles:
                handle.remove()
            for layer in layers.values():
                if self.activations == "fp8" and hasattr(layer.mlp, "experts"):
                    del layer.mlp.experts.forward
        return result

    def forward(self, ids):
        base = self.model.model
        extra = [base.embed_tokens.register_forward_hook(lambda _, __, out: self.put("Embed", -1, "x", out)),
                 base.norm.register_forward_hook(lambda _, __, out: self.put("FinalNorm", -1, "normed", out))]
        tokens = torch.tensor([list(map(int, ids))])
        logits = self.run(dict(enumerate(base.layers)), lambda: self.model(tokens, use_cache=False).logits)
        for handle in extra:
            handle.remove()
        self.put("Logits", -1, "logits", logits)
        return self.stages[("Logits", -1, "logits")]

    def forward_mtp(self, next_ids, hidden_in):
        """The same through transformers' MtpLayer around its own decoder layer."""
        number = self.config["num_hidden_layers"]
        prefix = f"model.layers.{number}."
        layer = MtpLayer(self.model.config, type(self.model.model.layers[0]), type(self.model.model.norm), number)
        layer = layer.float().eval()

        def checkpoint_name(own):
            own = own.removeprefix("mtp_block.")
            return prefix + own.replace("post_norm.", "shared_head.norm.")

        self.load(layer, {name: checkpoint_name(name) for name in layer.state_dict()})
        for module in layer.modules():
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = self.config["rms_norm_eps"]
        rows = len(next_ids)
        embedded = self.tensor(prefix + "embed_tokens.weight")[torch.tensor(list(map(int, next_ids)))][None]
        hidden = torch.from_numpy(hidden_in.astype(np.float32))[None]
        positions = torch.arange(rows)[None]
        mask = torch.full((rows, rows), float("-inf")).triu(1)[None, None]
        extra = layer.eh_proj.register_forward_hook(lambda _, __, out: self.put("MtpInput", -1, "x", out))
        normed = self.run({number: layer.mtp_block}, lambda: layer(
            embedded, hidden, self.model.model.rotary_emb(hidden, positions), mask, positions, None))
        extra.remove()
        self.put("FinalNorm", -1, "normed", normed)
        self.put("Logits", -1, "logits", F.linear(normed, self.tensor(prefix + "shared_head.head.weight")))
        return self.stages[("Logits", -1, "logits")]
