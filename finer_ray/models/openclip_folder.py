"""Folders in open_clip's local-dir layout: open_clip_config.json, and a merges file where the tokenizer is its own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import open_clip

from finer_ray.config.schema import LOCAL_DIR
from finer_ray.errors import ConfigError
from finer_ray.models.checkpoint import package_path

CONFIG, MERGES = "open_clip_config.json", "bpe.txt.gz"


@dataclass(frozen=True)
class OpenClipFolder:
    """A model that a folder describes. Its weights are no part of it: `model.weights` names their file.

    Attributes:
        path: of the folder.
        model_cfg: open_clip's description of both towers.
    """

    path: Path
    model_cfg: dict[str, Any]

    @classmethod
    def read(cls, folder: str) -> Self:
        """The folder that `open_clip:local-dir:FOLDER` names, a path or `package:NAME/FOLDER`.

        Raises:
            ConfigError: no such folder or package, or no config of both towers in it.
        """
        path = package_path(folder, "model.backbone") or Path(folder).expanduser()
        if not path.is_dir():
            raise ConfigError(f"model.backbone: no folder {str(path)!r}")
        file = path / CONFIG
        where = f"model.backbone: {str(file)!r}"
        if not file.is_file():
            raise ConfigError(f"{where} is missing; a local-dir folder holds the model's config under this name")
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{where} cannot be read as JSON: {error}") from None
        model = tree.get("model_cfg") if isinstance(tree, dict) else None
        towers = ("vision_cfg", "text_cfg")
        if not isinstance(model, dict) or not all(isinstance(model.get(tower), dict) for tower in towers):
            raise ConfigError(f"{where} needs a key `model_cfg` with the keys {' and '.join(towers)}")
        return cls(path, model)

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
        wanted = self.model_cfg["text_cfg"].get("vocab_size", found.vocab_size)
        if found.vocab_size > wanted:
            raise ConfigError(
                f"model.backbone: the tokenizer in {str(self.path)!r} has {found.vocab_size} tokens, its text tower "
                f"{wanted}; put the right merges there as {MERGES}"
            )
        return found
