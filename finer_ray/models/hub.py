"""Repositories of the Hugging Face hub: the files of one commit that a model needs, from the local cache or the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from finer_ray.config.messages import clipped
from finer_ray.config.schema import OWN_WEIGHTS, ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.checkpoint import package_path, weights_file
from finer_ray.models.library import HF_HUB, LOCAL_DIR

WEIGHTS_ONLY = "; a repository's weights are read as safetensors, or by torch with weights_only=True"


@dataclass(frozen=True)
class Repository:
    """A folder with a model's config and weights, local or a snapshot in the hub's cache.

    Attributes:
        path: of the folder.
        name: ORG/NAME on the hub; '' of a local folder.
        commit: of the snapshot, which `main` or another revision was resolved to; '' of a local folder.
    """

    path: Path
    name: str = ""
    commit: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """For the manifest: what the model was made of, and at which commit."""
        return {f"{HF_HUB}{self.name}": self.commit} if self.commit else {}


def repository(config: ModelConfig, files: Sequence[str]) -> Repository:
    """The folder that `model.backbone` names: `local-dir:FOLDER`, or a repository by `hf-hub:` or its bare name.

    Args:
        config: the section `model`, with a backbone for which `Library.is_folder` holds.
        files: of a repository, patterns of names; the first is its config's, which must be there.

    Raises:
        ConfigError: no such folder, repository, revision or config; or the hub cannot be reached, and the cache lacks
            it.
    """
    text = config.backbone.partition(":")[2]
    if text.startswith(LOCAL_DIR):
        folder = text.removeprefix(LOCAL_DIR)
        path = package_path(folder, "model.backbone") or Path(folder).expanduser()
        if not path.is_dir():
            raise ConfigError(f"model.backbone: no folder {str(path)!r}")
        found = Repository(path)
    else:
        name, _, revision = text.removeprefix(HF_HUB).partition("@")
        path = _snapshot(name, revision or None, files)
        found = Repository(path, name, path.name)
    if not (path / files[0]).is_file():
        if found.commit and constants.HF_HUB_OFFLINE:
            _refuse_offline(f"{files[0]} of {found.name}")
        raise ConfigError(
            f"model.backbone: {str(path / files[0])!r} is missing; a folder or repository of "
            f"{config.library.name} holds the model's config under this name"
        )
    return found


def weights_of(config: ModelConfig, found: Repository | None, patterns: Sequence[str]) -> Path | None:
    """The file that `model.weights` names, or that its folder or repository has; None for a tag, or random.

    Args:
        config: the section `model`.
        found: the backbone's folder, if it is one.
        patterns: names of files of weights in such a folder, the best first; of the first that fits, the first file.

    Raises:
        ConfigError: there is no such file.
    """
    if found is None or config.weights != OWN_WEIGHTS:
        return weights_file(config.weights)
    for pattern in patterns:
        if found.commit:
            _snapshot(found.name, found.commit, [pattern])
        if files := sorted(found.path.glob(pattern)):
            return files[0]
    if found.commit and constants.HF_HUB_OFFLINE:
        _refuse_offline(f"the weights of {found.name} ({', '.join(patterns)})")
    raise ConfigError(
        f"model.weights: {config.backbone} has none of the files {', '.join(patterns)}{WEIGHTS_ONLY}: give the path of "
        "a file"
    )


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a commit in the cache, in which files of these names are there if the repository has them."""
    at = f"@{revision}" if revision else ""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError:
        raise ConfigError(
            f"model.backbone: {clipped(name, 100)!r} is no name of a repository on the hub: write ORG/NAME, or "
            "ORG/NAME@REVISION"
        ) from None
    except GatedRepoError:
        raise ConfigError(
            f"model.backbone: the hub gives {name} only to those who have accepted its terms: do so on its page, and "
            "set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"model.backbone: the hub has no repository {name!r}, or it is private, which needs HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ConfigError(f"model.backbone: {name} has no revision {revision!r}") from None
    except Exception as error:
        # Of several libraries: no network, a proxy, a server's fault, a file that is missing in the cache.
        reason = "" if constants.HF_HUB_OFFLINE else clipped(" ".join(str(error.__cause__ or error).split()), 200)
        _refuse_offline(f"{name}{at}", reason)


def _refuse_offline(what: str, reason: str = "") -> NoReturn:
    why = f"the hub cannot be reached ({reason})" if reason else "HF_HUB_OFFLINE is set"
    raise ConfigError(
        f"model.backbone: {what} is not in the cache {constants.HF_HUB_CACHE}, and {why}: run `finer-ray fetch "
        "job.yaml` on a machine with network, and bring that folder here, or set HF_HOME to where it is"
    ) from None
