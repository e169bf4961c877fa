"""`config.pbtxt` of a bundle's model on Triton's Python backend."""

from ntre_deploy.serving.triton.options import Options
from ntre_deploy.serving.triton.textformat import Enum, Message
from ntre_deploy.serving.triton.warmup import Tensor

# name, type and shape behind the batch's; all are optional, as a request brings one image and one kind of support
INPUTS = (
    ("image", "TYPE_UINT8", (-1, -1, 3)),
    ("image_bytes", "TYPE_STRING", (1,)),
    ("memories", "TYPE_STRING", (-1,)),
    ("support_memories", "TYPE_STRING", (-1,)),
    ("support_images", "TYPE_STRING", (-1,)),
    ("support_masks", "TYPE_STRING", (-1,)),
    ("support_names", "TYPE_STRING", (-1,)),
)
OUTPUTS = (("labels", "TYPE_UINT8", (-1, -1)), ("scores", "TYPE_FP32", (-1,)), ("names", "TYPE_STRING", (-1,)))


def model_config(name: str, options: Options, warmup: list[Tensor]) -> Message:
    """The configuration of the model, to be written by `to_text`.

    Args:
        warmup: inputs of one request, such as `image` [H, W, 3], whose data lie in files of these names.
    """
    config: dict[str, object] = {
        "name": name,
        "backend": "python",
        "max_batch_size": options.batch,
        "input": [
            # requests of one batch may differ in shape: the backend gets each request by itself
            {"name": n, "data_type": Enum(t), "dims": d, "optional": True, "allow_ragged_batch": -1 in d}
            for n, t, d in INPUTS
        ],
        "output": [{"name": n, "data_type": Enum(t), "dims": d} for n, t, d in OUTPUTS],
        "instance_group": [instance_group(options)],
        "dynamic_batching": dynamic_batching(options),
        "version_policy": {"latest": {"num_versions": options.keep}},
        "parameters": [{"key": k, "value": {"string_value": v}} for k, v in _parameters(options).items()],
    }
    if warmup:
        sizes = dict.fromkeys((1, options.batch))
        config["model_warmup"] = [_warmup(f"batch of {size}", size, warmup) for size in sizes]
    return config  # type: ignore[return-value]


def instance_group(options: Options) -> Message:
    """Instances and what they take of the rate limiter's resources."""
    group: dict[str, object] = {"count": options.instances, "kind": Enum(options.kind)}
    if options.gpus:
        group["gpus"] = options.gpus
    limiter: dict[str, object] = {}
    if options.resources:
        limiter["resources"] = [{"name": n, "count": c} for n, c in options.resources]
    if options.priority is not None:
        limiter["priority"] = options.priority
    return group | ({"rate_limiter": limiter} if limiter else {})  # type: ignore[return-value]


def dynamic_batching(options: Options) -> Message:
    """Batches, and the bounded queue in front of them."""
    return {
        "preferred_batch_size": options.preferred,
        "max_queue_delay_microseconds": options.wait,
        "default_queue_policy": {
            "timeout_action": Enum("REJECT"),
            "default_timeout_microseconds": options.timeout * 1000,
            "allow_timeout_override": True,
            "max_queue_size": options.queue,
        },
    }


def _parameters(options: Options) -> dict[str, str]:
    found = {"engine": options.engine, "server": options.server}
    if options.precision is not None:
        found["precision"] = options.precision
    if options.threads is not None:
        found["threads"] = str(options.threads)
    return {key: value for key, value in found.items() if value}


def _warmup(name: str, size: int, tensors: list[Tensor]) -> Message:
    inputs: list[Message] = [
        {"key": t.name, "value": {"data_type": Enum(t.kind), "dims": t.dims, "input_data_file": t.name}}
        for t in tensors
    ]
    return {"name": name, "batch_size": size, "inputs": inputs}
