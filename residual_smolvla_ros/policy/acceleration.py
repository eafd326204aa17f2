"""Make a loaded SmolVLA plan faster, with the same plans but for rounding.

LeRobot computes the VLM's prefix once a plan and keeps its keys and values over the denoising
steps; so does this. What it leaves is that a step is hundreds of small kernels, each launched from
Python, and that the processor waits for the device in every step (a time and a mask are copied to
it) and in the vision encoder. Here nothing waits within a plan, so that a step can be compiled as
a whole and be launched as one CUDA graph.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding, make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch.nn import functional

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.planning import BFLOAT16, Acceleration

WARM_UP_RUNS = 3  # before a capture, as torch's documentation has it


def accelerate(policy: SmolVLAPolicy, acceleration: Acceleration) -> None:
    """Have a policy plan as `acceleration` says, in place.

    Raises ConfigError where its device or its configuration is not fit for that.
    """
    _check(policy.config)
    device = policy.model.state_proj.weight.device
    if acceleration.cuda_graph and device.type != "cuda":
        raise ConfigError(f"cuda_graph: expected the device cuda, found {device}")
    vlm = policy.model.vlm_with_expert
    vision = Vision(vlm.get_vlm_model(), policy.config.resize_imgs_with_padding)
    if acceleration.precision == BFLOAT16:
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise ConfigError(
                f"precision: expected a GPU that computes in {BFLOAT16}, found {name}"
            )
        # The projections around the expert stay float32, as in what LeRobot trains.
        vlm.to(torch.bfloat16)
    vlm.embed_image = vision
    policy.model.sample_actions = Sampler(policy, acceleration)


def upload(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return images (n, H, W, 3) uint8 as LeRobot has them, (n, 3, H, W) from 0 to 1, on a GPU.

    A quarter of the bytes go over the bus, from memory that the device reads by itself.
    """
    pixels = torch.from_numpy(images).pin_memory().to(device, non_blocking=True)
    # By a number torch would multiply with its reciprocal, which is off in the last bit.
    scale = torch.full((), 255.0, device=device)
    return pixels.permute(0, 3, 1, 2).float() / scale


class Vision:
    """Stand in for `embed_image` of LeRobot: tokens (n, places, width) of images (n, 3, H, W).

    Where the patches of a whole image are is read once, as the VLM was loaded: transformers finds
    it anew for each image, makes the processor wait for the device, and in bfloat16 takes wrong
    places where the patches of a side are no power of two.
    """

    @torch.no_grad()
    def __init__(self, vlm: torch.nn.Module, size: tuple[int, int]):
        self._vlm = vlm
        embeddings, (width, height) = vlm.vision_model.embeddings, size
        table, found = embeddings.position_embedding, []
        hook = table.register_forward_hook(lambda module, inputs, output: found.append(output))
        device, dtype, patch = table.weight.device, table.weight.dtype, embeddings.patch_size
        mask = torch.ones((1, height // patch, width // patch), dtype=torch.bool, device=device)
        embeddings(torch.zeros((1, 3, height, width), dtype=dtype, device=device), mask)
        hook.remove()
        self._places = found[0]  # (1, patches, width)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens after the connector."""
        vision = self._vlm.vision_model
        dtype = vision.embeddings.patch_embedding.weight.dtype
        patches = vision.embeddings.patch_embedding(image.to(dtype)).flatten(2).transpose(1, 2)
        patches = patches + self._places.to(dtype)
        encoded = vision.encoder(inputs_embeds=patches, attention_mask=None).last_hidden_state
        return self._vlm.connector(vision.post_layernorm(encoded))


class Sampler:
    """Stand in for `VLAFlowMatching.sample_actions` of LeRobot, for one robot at a time.

    Several robots at once are planned for by LeRobot's own code: each number of them would be
    compiled anew. Language is padded to its full length, so that every task has one shape.
    """

    def __init__(self, policy: SmolVLAPolicy, acceleration: Acceleration):
        self._model, self._config = policy.model, policy.config
        self._lerobots = policy.model.sample_actions
        self._device = policy.model.state_proj.weight.device
        self._step = -1.0 / self._config.num_steps  # of the flow's time, from noise at 1
        times = [1.0 + step * self._step for step in range(self._config.num_steps)]
        self._times = torch.tensor(times, device=self._device)[:, None].unbind()
        self._one_plan = threading.Lock()  # a graph's inputs and outputs have fixed places
        self._prefill, self._velocity = self._see, self._denoise
        if acceleration.compile:
            # Not mode="reduce-overhead": its CUDA graphs work in one thread only, and plans are
            # made in another one (pytorch/pytorch#123177).
            self._prefill = torch.compile(self._prefill, fullgraph=True, dynamic=False)
            self._velocity = torch.compile(self._velocity, fullgraph=True, dynamic=False)
        if acceleration.cuda_graph:
            self._prefill = Graphed(self._prefill, capture)
            self._velocity = Graphed(self._velocity, capture)

    @torch.no_grad()
    def __call__(
        self, images, img_masks, lang_tokens, lang_masks, state, noise=None, **guidance
    ) -> torch.Tensor:
        """Return the actions (n, chunk, max_action_dim) as LeRobot's method does."""
        if len(state) != 1 or noise is None:
            return self._lerobots(
                images, img_masks, lang_tokens, lang_masks, state, noise=noise, **guidance
            )
        missing = (0, self._config.tokenizer_max_length - lang_tokens.shape[1])
        tokens, token_masks = (functional.pad(one, missing) for one in (lang_tokens, lang_masks))
        seen = (torch.cat(images), torch.cat(img_masks), tokens, token_masks.bool(), state)
        on_device = torch.cuda.device(self._device if self._device.type == "cuda" else -1)
        with self._one_plan, on_device:
            prefix = self._prefill(seen)
            if guidance.get("prev_chunk_left_over") is not None:
                return self._guided(noise, prefix, guidance)
            for time in self._times:
                noise = noise + self._step * self._velocity((noise, time), prefix)
            return noise

    def _guided(self, noise, prefix, guidance) -> torch.Tensor:
        """Let LeRobot's real-time chunking guide the steps; its guidance is not captured."""
        times = iter(self._times)

        def velocity(x, _time):
            # LeRobot's time has other strides, for which all would be compiled anew. It turns
            # gradients on around the step, and asks for none through it.
            with torch.no_grad():
                return self._velocity((x, next(times)), prefix)

        return euler_integrate(
            velocity,
            noise,
            self._config.num_steps,
            rtc_processor=self._model.rtc_processor,
            rtc_enabled=self._model._rtc_enabled(),
            **guidance,
        )

    # -- what is computed once a plan -------------------------------------------------------

    def _see(self, seen: tuple) -> tuple[torch.Tensor, ...]:
        """Return the steps' attention mask and positions, and the prefix's keys and values.

        `seen` are the images (cameras, 3, H, W), their masks (cameras,), the language's tokens
        and mask (1, length), and the state (1, max_state_dim).
        """
        images, image_masks, tokens, token_masks, state = seen
        model, vlm = self._model, self._model.vlm_with_expert
        looks = vlm.embed_image(images)
        cameras, places, width = looks.shape
        looks = looks * torch.full((), width**0.5, dtype=looks.dtype, device=looks.device)
        words = vlm.embed_language_tokens(tokens) * width**0.5
        embedded = [looks.reshape(1, -1, width), words, model.state_proj(state)[:, None]]
        embedded = torch.cat(embedded, dim=1)
        image_masks = image_masks[:, None].expand(cameras, places).reshape(1, -1)
        present = torch.cat([image_masks, token_masks, torch.ones_like(token_masks[:, :1])], dim=1)
        # Images and language do not look at the state, which comes last.
        later = functional.pad(torch.zeros_like(present[:, 1:]), (0, 1), value=True)
        _, cache = vlm.forward(
            attention_mask=make_att_2d_masks(present, later),
            position_ids=torch.cumsum(present, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        chunk = torch.ones((1, self._config.chunk_size), dtype=torch.bool, device=state.device)
        prefix = present[:, None].expand(-1, self._config.chunk_size, -1)
        mask = torch.cat([prefix, make_att_2d_masks(chunk, chunk)], dim=2)
        positions = present.sum(dim=-1)[:, None] + torch.cumsum(chunk, dim=1) - 1
        layers = cache.layers
        return mask, positions, *[x.keys for x in layers], *[x.values for x in layers]

    # -- what is computed every denoising step ----------------------------------------------

    def _denoise(self, now: tuple, prefix: tuple) -> torch.Tensor:
        """Return the velocity (1, chunk, max_action_dim) at the actions and the time of `now`."""
        actions, time = now
        mask, positions, *cached = prefix
        model, config = self._model, self._config
        embedded = model.action_in_proj(actions)
        times = create_sinusoidal_pos_embedding(
            time, embedded.shape[-1], config.min_period, config.max_period, device=actions.device
        )
        times = times.to(embedded.dtype)[:, None].expand_as(embedded)
        embedded = model.action_time_mlp_in(torch.cat([embedded, times], dim=2))
        embedded = model.action_time_mlp_out(functional.silu(embedded))
        half = len(cached) // 2
        (_, found), _ = model.vlm_with_expert.forward(
            attention_mask=mask,
            position_ids=positions,
            past_key_values=_Prefix(cached[:half], cached[half:]),
            inputs_embeds=[None, embedded],
            use_cache=True,
        )
        return model.action_out_proj(found.float())


@dataclass
class _Layer:
    keys: torch.Tensor  # (1, heads, length, size)
    values: torch.Tensor


class _Prefix:
    """Keys and values that LeRobot's layers read, and add their own to for this step only."""

    def __init__(self, keys, values):
        self.layers = [_Layer(k, v) for k, v in zip(keys, values, strict=True)]

    def update(self, keys, values, layer: int):
        """Return keys and values (1, heads, length, size) of the prefix and of the step."""
        of = self.layers[layer]
        return torch.cat([of.keys, keys], dim=2), torch.cat([of.values, values], dim=2)


class Graphed:
    """Call a function by a captured graph, one for each shape of what it is called with.

    `moving` are tensors that are copied to where the graph reads them; `fixed` ones, another
    graph's results, are read where they are. The result is overwritten by the next call.
    """

    def __init__(self, function: Callable, capture: Callable):
        self._function, self._capture = function, capture
        self._captured: dict[tuple, tuple] = {}

    def __call__(self, moving: tuple, *fixed: tuple):
        """Return the function's result."""
        shapes = tuple((one.shape, one.dtype) for one in moving)
        key = (shapes, *(one.data_ptr() for group in fixed for one in group))
        if key not in self._captured:
            places = tuple(one.clone() for one in moving)
            self._captured[key] = places, *self._capture(lambda: self._function(places, *fixed))
        places, replay, result = self._captured[key]
        for place, value in zip(places, moving, strict=True):
            place.copy_(value, non_blocking=True)
        replay()
        return result


def capture(function: Callable) -> tuple[Callable, object]:
    """Return what launches a function's kernels as one CUDA graph, and where its results are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another thread may be encoding tokens meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    return graph.replay, result


def _check(config) -> None:
    """Raise ConfigError for a checkpoint that is planned for by LeRobot's own code only."""
    unfit = {
        "add_image_special_tokens": config.add_image_special_tokens,
        "use_cache": not config.use_cache,
        "prefix_length": config.prefix_length > 0,
        "resize_imgs_with_padding": not config.resize_imgs_with_padding,
    }
    for name in (name for name, is_unfit in unfit.items() if is_unfit):
        raise ConfigError(
            f"precision, compile, cuda_graph: expected a base of SmolVLA's usual settings, "
            f"found {name}: {getattr(config, name)}"
        )
