"""Folders and repositories in open_clip's layout: open_clip_config.json, weights, and files of a tokenizer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import open_clip

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.hub import Repository, repository
from finer_ray.models.library import LOCAL_DIR
from finer_ray.models.preprocessing import read_json

CONFIG, MERGES = "open_clip_config.json", "bpe.txt.gz"
TOKENIZER = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*spiece.model")
# Weights in a folder or repository, the best first.
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class OpenClipFolder:
    """A model that a folder describes.

    Attributes:
        repository: the folder, local or of the hub's cache.
        model_cfg: open_clip's description of both towers.
    """

    repository: Repository
    model_cfg: dict[str, Any]

    @classmethod
    def read(cls, config: ModelConfig) -> Self:
        """The folder that `open_clip:local-dir:FOLDER` or `open_clip:hf-hub:ORG/NAME` names.

        Raises:
            ConfigError: no such folder, package or repository, or no config of both towers in it.
        """
        found = repository(config, [CONFIG, MERGES, *TOKENIZER, "config.json"])
        file = found.path / CONFIG
        where = f"model.backbone: {str(file)!r}"
        model = read_json(file, where).get("model_cfg")
        towers = ("vision_cfg", "text_cfg")
        if not isinstance(model, dict) or not all(isinstance(model.get(tower), dict) for tower in towers):
            raise ConfigError(f"{where} needs a key `model_cfg` with the keys {' and '.join(towers)}")
        return cls(found, model)

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.repository.path

    @property
    def name(self) -> str:
        """How open_clip calls it."""
        return f"{LOCAL_DIR}{self.path}"

    @property
    def identity(self) -> str:
        """What decides its outputs, the weights apart; the same wherever the folder lies."""
        return f"open_clip:{LOCAL_DIR} {json.dumps(self.model_cfg, sort_keys=True)}"

    def tokenizer(self) -> Any:
        """open_clip's own for this config, with the folder's merges if it has some.

        Raises:
            ConfigError: it cannot be made, or its tokens are not those of the text tower.
        """
        merges = self.path / MERGES
        try:
            found = open_clip.get_tokenizer(self.name, **({"bpe_path": str(merges)} if merges.is_file() else {}))
        except Exception as error:
            raise ConfigError(f"model.backbone: the tokenizer in {str(self.path)!r} cannot be made: {error}") from error
        # open_clip's own tokenizer knows its size; of one of transformers it is the length.
        size = found.vocab_size if hasattr(found, "vocab_size") else len(found.tokenizer)
        wanted = self.model_cfg["text_cfg"].get("vocab_size", size)
        if size > wanted:
            raise ConfigError(
                f"model.backbone: the tokenizer in {str(self.path)!r} has {size} tokens, its text tower "
                f"{wanted}; put the right merges there as {MERGES}"
            )
        return found
