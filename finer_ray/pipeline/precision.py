"""What `compute.precision: auto` stands for: decided once, where a run begins, for all of its actors."""

import torch

from finer_ray.config.schema import Config
from finer_ray.models import Classifier
from finer_ray.pipeline.executor import Executor

# Of torch.cpu, each for a kind of processor; where torch does not have one by this name, no processor is of its kind.
CHECKS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


def has_bf16_products() -> bool:
    """Whether this machine's CPU multiplies matrices in bf16 by instructions of its own (AMX, AVX512-BF16)."""
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, name, bool)() for name in CHECKS)


def with_precision(config: Config, classifier: Classifier, executor: Executor) -> tuple[Config, list[str]]:
    """A config with the number format that its rows will be made in, which its fingerprint holds.

    Args:
        config: of the job.
        classifier: that it explains.
        executor: that will run it.

    Returns:
        The config, and what the user should know of the choice; nothing where it was the config's.

    Raises:
        ConfigError, WorkerError: a cluster cannot be asked.
    """
    if config.compute.precision != "auto":
        return config, []
    if classifier.split.convolutional:
        precision, why = "fp32", "CNNs gain little by bf16, and lose more by it than ViTs do"
    elif executor.runs_on_cpus(config.compute, has_bf16_products):
        precision, why = "bf16", "the CPUs have matrix products in it"
    else:
        precision, why = "fp32", "the model runs on GPUs, or on CPUs of which not all have matrix products in bf16"
    compute = config.compute.model_copy(update={"precision": precision})
    return config.model_copy(update={"compute": compute}), [f"compute.precision: auto is {precision} here: {why}"]
