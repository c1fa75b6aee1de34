"""The decoder that every model here is: embedding, layers of mixer and SwiGLU, norm, head. It knows no mixer by name.

model = NHAForCausalLM(NHAConfig(...)); model.set_window(64, layers=[0, 1]); model.generate(input_ids)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kernels import few_rows
from models.batch import Batch, positions, sequence_bounds
from models.cache import CACHE_NAME, NHACache
from models.cache_layers import Rows
from models.configuration import NHAConfig, check_window
from models.layers import DecoderLayer, RMSNorm, plain


class NHAPreTrainedModel(PreTrainedModel):
    """What both models share: configuration, initialisation, windows, cache."""

    config: NHAConfig
    config_class = NHAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer",)
    _skip_keys_device_placement = ("past_key_values", "cache")
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if hasattr(module, "start_gate"):
            module.start_gate()

    def _initialize_weights(self, module: nn.Module, *_) -> None:
        # Told that this is no code of its own, Transformers passes over modules without weights of their own, as mixers are.
        super()._initialize_weights(module)

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder layers, of the model with or without a head."""
        return self.base_model.layers

    def set_window(self, window: int | None, layers: Iterable[int] | None = None) -> None:
        """Sets the window, in tokens (None: full attention), in place; no weight changes.

        layers: their indices; None means every layer whose mixer has a window. Caches made before no longer fit.
        Raises ValueError for a window that a layer cannot have, before any is changed.
        """
        mixers = self.config.mixers
        if layers is None:
            chosen = [i for i, layer in enumerate(self.decoder_layers) if layer.self_attn.has_window]
            if not chosen:
                raise ValueError(f"no layer of this model has a window (mixers: {', '.join(sorted(set(mixers)))})")
        else:
            chosen = list(layers)
            wrong = [i for i in chosen if not 0 <= i < len(mixers)]
            if wrong:
                raise ValueError(f"layers {wrong} were given; wanted indices from 0 to {len(mixers) - 1}")
            without = [i for i in chosen if not self.decoder_layers[i].self_attn.has_window]
            if without:
                raise ValueError(f"layers {without} have mixers without a window")
        for i in chosen:
            check_window(mixers[i], window, i)
        for i in chosen:
            self.config.windows[i] = window
            self.decoder_layers[i].self_attn.window = window

    def new_cache(self, max_length: int | None = None) -> NHACache:
        """An empty cache that fits this model's mixers and windows as they are now.

        max_length: the most tokens a row. With it all shapes are fixed: from the first token on no tensor changes its shape or
        address, so that a step of one token (without a mask, all new tokens counting) can be captured in a CUDA graph. Such a
        cache takes no gradients. ValueError unless it is None or an int >= 1.
        """
        rows = None if max_length is None else Rows(max_length)
        return NHACache([layer.self_attn.new_cache(rows) for layer in self.decoder_layers], rows)

    def backend(self) -> str:
        """What the layers run on at their windows as they are, such as "chunked" or "chunked+sdpa"."""
        return "+".join(sorted({layer.self_attn.backend() for layer in self.decoder_layers}))

    def state_bytes(self, batch_size: int, length: int) -> int:
        """Bytes that a cache holds after `length` tokens a row, in this model's dtype."""
        itemsize = torch.empty((), dtype=self.dtype).element_size()
        return sum(layer.self_attn.state_bytes(batch_size, length, itemsize) for layer in self.decoder_layers)

    def state_elements(self, length: int) -> int:
        """Numbers of the state of one sequence after `length` tokens, over all layers, as `models.mixers` counts them."""
        return sum(layer.self_attn.state_elements(length) for layer in self.decoder_layers)


@dataclass
class NHAModelOutput(BaseModelOutputWithPast):
    """aux_loss: the mean over layers of the slots' share's loss, in training with `config.aux_loss`; None otherwise."""

    aux_loss: Tensor | None = None


@dataclass
class NHACausalLMOutput(CausalLMOutputWithPast):
    """aux_loss: as of `NHAModelOutput`; it is in `loss`, times its weight, where labels were given."""

    aux_loss: Tensor | None = None


class NHAModel(NHAPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: NHAConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: NHACache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: NHACache | None = None,
        cu_seqlens: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs,
    ) -> NHAModelOutput:
        """Hidden states of the new tokens.

        input_ids [B, T] or inputs_embeds [B, T, hidden]; attention_mask [B, past + T], zero at pads, which may stand
        anywhere; position_ids [B, T] or [1, T], by default counted over the tokens that are no pads. past_key_values and
        cache are one argument under its two names. No cache is made where gradient checkpointing runs layers twice.

        Sequences may come packed, and then nothing passes from one to the next: by position_ids that start again at 0, as
        Transformers' DataCollatorWithFlattening makes them, or by cu_seqlens [N + 1] int, their bounds in the B * T tokens
        (cu_seq_lens_q is the collator's name for them). Packed sequences take neither a mask nor a cache.

        Raises ValueError where both or neither input is given, or a mask, cache or bounds do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("wanted exactly one of input_ids and inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is not None and cache is not None:
            raise ValueError("past_key_values and cache are two names of one argument; wanted one of them")
        cache = past_key_values if cache is None else cache
        if cache is not None and not isinstance(cache, NHACache):
            raise ValueError(f"the cache is a {type(cache).__name__}; wanted model.new_cache(), or None")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.training and torch.is_grad_enabled() and any(layer.gradient_checkpointing for layer in self.layers):
            if cache is not None:
                raise ValueError("a cache was given, which gradient checkpointing would move on twice; wanted None")
            use_cache = False
        mask = self._mask(attention_mask, hidden_states, cache)
        given = cu_seq_lens_q if cu_seqlens is None else cu_seqlens
        bounds = sequence_bounds(hidden_states.shape[:2], hidden_states.device, position_ids, given, mask, cache)
        if bounds is not None:
            use_cache = False
        if use_cache and cache is None:
            cache = self.new_cache()

        batch = self._batch(hidden_states, mask, position_ids, bounds, cache)
        if self.config.aux_loss and self.training:
            batch.aux_losses = []
        collected = []
        for i, layer in enumerate(self.layers):
            if output_hidden_states:
                collected.append(hidden_states)
            hidden_states = layer(hidden_states, batch, cache=None if cache is None else cache.layers[i])
        if cache is not None and cache.rows is not None:
            cache.rows.advance(batch.new, batch.valid)
        if hidden_states.requires_grad and not all(loss.requires_grad for loss in batch.aux_losses or ()):
            raise ValueError(
                "aux_loss takes no gradient through reentrant gradient checkpointing; wanted "
                "gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        hidden_states = self.norm(hidden_states)
        return NHAModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=(*collected, hidden_states) if output_hidden_states else None,
            aux_loss=torch.stack(batch.aux_losses).mean() if batch.aux_losses else None,
            **{CACHE_NAME: cache if use_cache else None},
        )

    def run_layers(self, hidden_states: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """What layer `start` reads, [B, T, hidden], to what layer `stop` would (None: to what the last norm would), same shape.

        Each row is one whole sequence without pads. From the embedding through all layers, and the norm after it, these are
        `forward`'s own hidden states.
        """
        batch = self._batch(hidden_states, None, None, None, None)
        for layer in self.layers[start:stop]:
            hidden_states = layer(hidden_states, batch)
        return hidden_states

    def _mask(self, attention_mask: Tensor | None, x: Tensor, cache: NHACache | None) -> Tensor | None:
        """attention_mask as bool, None where every token counts."""
        if attention_mask is None:
            return None
        rows, new = x.shape[:2]
        past = 0 if cache is None else cache.get_seq_length()
        if attention_mask.shape != (rows, past + new):
            given = list(attention_mask.shape)
            raise ValueError(f"attention_mask has shape {given}; wanted [{rows}, {past + new}] ({past} cached, {new} new)")
        mask = attention_mask.bool()
        return None if bool(mask.all()) else mask

    def _batch(
        self, x: Tensor, mask: Tensor | None, position_ids: Tensor | None, bounds: Tensor | None, cache: NHACache | None
    ) -> Batch:
        rows, new = x.shape[:2]
        fixed = None if cache is None else cache.rows
        if fixed is not None and new == 1 and mask is None and position_ids is None and self._starts_at_once(x):
            return self._batch_of_step(x, fixed)
        valid = None if mask is None or bool(mask[:, -new:].all()) else mask[:, -new:]
        if fixed is not None:
            if torch.is_grad_enabled():
                raise ValueError("a cache of fixed shapes is written over, which no gradient survives; wanted torch.no_grad()")
            # A step of one token on a GPU must not wait for it.
            past = fixed.check_room(new) if new > 1 or x.device.type == "cpu" else None
            fixed.receive(rows, new, valid, x.device)
            # Of an empty cache nothing need be met, so that a prompt needs no mask over all places.
            past, keys = (0, mask) if past == 0 else (fixed.filled, fixed.mask)
        else:
            past, keys = 0 if cache is None else cache.get_seq_length(), mask
        if position_ids is None:
            position_ids = positions(rows, new, past, mask, valid, bounds, fixed, x.device)
        cos, sin = (t.expand(rows, -1, -1).chunk(2, dim=-1)[0] for t in self.rotary_emb(x, position_ids))
        return Batch(cos, sin, past, new, keys, valid, bounds)

    def _starts_at_once(self, x: Tensor) -> bool:
        """Whether a step's angles can be had without Transformers' own, which change some frequencies with the length."""
        kind = self.rotary_emb.rope_type
        return few_rows.takes(x) and "dynamic" not in kind and kind != "longrope"

    def _batch_of_step(self, x: Tensor, fixed: Rows) -> Batch:
        """`_batch` of one token a row, without pads, in a cache of fixed shapes."""
        from kernels.step_start_triton import start_step

        fixed.meet(len(x), x.device)
        turns = self.rotary_emb
        cos, sin = start_step(fixed.seen, fixed.filled, fixed.mask, turns.inv_freq, turns.attention_scaling, x.dtype)
        return Batch(cos, sin, fixed.filled, 1, fixed.mask)


class NHAForCausalLM(NHAPreTrainedModel, GenerationMixin):
    """The decoder with a language-model head, as any causal model of Transformers."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As of Transformers; for a folder that names its base (`models.adapted`), `dtype` and `device_map` (a device)."""
        from models.adapted import is_adapted, load_adapted

        if pretrained_model_name_or_path is None or not is_adapted(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        device = kwargs.get("device_map")
        if not isinstance(device, str | torch.device | None) or device in ("auto", "balanced", "sequential"):
            raise ValueError(f"device_map is {device!r}; an adapted checkpoint goes to one device, as in 'cuda:0'")
        model = load_adapted(pretrained_model_name_or_path, dtype="float32" if dtype in (None, "auto") else dtype)
        return model if device is None else model.to(device)

    def __init__(self, config: NHAConfig):
        super().__init__(config)
        self.model = NHAModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: NHACache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: NHACache | None = None,
        cu_seqlens: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs,
    ) -> NHACausalLMOutput:
        """Logits [B, T', vocabulary], and the loss where labels [B, T] are given (-100: not counted; the first token of each
        packed sequence should be, as no token before it foretells it).

        logits_to_keep: the last that many positions (0: all), or their indices. The rest as `NHAModel.forward`.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            cache=cache,
            cu_seqlens=cu_seqlens,
            cu_seq_lens_q=cu_seq_lens_q,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept]
        if few_rows.takes(hidden_states) and plain(self.lm_head):
            logits = few_rows.linear(hidden_states, [self.lm_head.weight])[0]
        else:
            logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            if outputs.aux_loss is not None:
                loss = loss + self.config.aux_loss * outputs.aux_loss
        held = {CACHE_NAME: getattr(outputs, CACHE_NAME)}
        shown = {"hidden_states": outputs.hidden_states, "aux_loss": outputs.aux_loss}
        result = NHACausalLMOutput(loss=loss, logits=logits, **shown, **held)
        return result.to_tuple() if return_dict is False else result

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, mode, batch_size, max_cache_length) -> None:
        """`generate` starts from this model's own cache; those that it could choose from know nothing of slots."""
        asked = generation_config.cache_implementation
        if asked not in (None, "dynamic", "static"):
            raise ValueError(f"cache_implementation is {asked!r}; wanted None, 'dynamic' or 'static': this model makes its own")
        given = model_kwargs.get(CACHE_NAME)
        if given is not None and asked is not None:
            raise ValueError(f"both a cache and cache_implementation {asked!r} were given; wanted one of them")
        if generation_config.use_cache is False or given is not None:
            return
        longest = max(max_cache_length, generation_config.max_cache_len or 0)
        cache = model_kwargs[CACHE_NAME] = self.new_cache(longest if asked == "static" else None)
        if generation_config.is_assistant:
            # The tokens that it drafts may be rejected.
            cache.activate_past_recording()
