"""Folders as the Hugging Face Hub keeps them: ``model.safetensors``, ``config.json``, a model card (``README.md``).

huggingface_hub's ``PyTorchModelHubMixin`` reads these folders but does not write them here: it takes another class's
weights without a word (``strict=False``), puts no origin into the weights' header, its import takes a second at every
start, and what would have to be overridden is as long as this.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from safetensors.torch import save

from esrgan_lit.files import atomic_write
from esrgan_lit.networks.building import build_within, fill
from esrgan_lit.tensor_files import WeightsError, find_misfit, open_tensors, shown, usable

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

_ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FIELDS = {
    "training_data": "Training data",
    "steps": "Iterations",
    "metrics": "Validation at that iteration",
    "license": "License",
    "source": "Source",
    "experiment": "Experiment",
    "blend": "Interpolated from",
    "base_model": "Base model",
    "version": "esrgan_lit",
}


class HubFolder:
    """Write a network to such a folder, read it from one, upload it; mixed into the generators.

    Attributes:
        architecture: the class's name and its constructor's arguments, which ``config.json`` holds.
        metadata: of the file that the weights came from: training data, steps, metrics, license …
        source: what they were loaded from, for messages.
    """

    architecture: dict[str, Any]
    architecture_name: str
    scale: int
    metadata: Mapping[str, str] = {}
    source: str = ""

    def save_pretrained(self, folder: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
        """Write weights, configuration and model card into a folder, and return it.

        Args:
            folder: made if it does not exist; a file in it is replaced whole.
            metadata: for the card and the weights' header, beside what the network's own file said; ``base_model``
                (``user/name`` on the Hub) is what it was trained from.
        """
        folder = Path(folder)
        assert isinstance(self, torch.nn.Module)
        metadata = {**self.metadata, **(metadata or {})}
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        header = {"format": "pt", "architecture": json.dumps(self.architecture), **metadata}
        contents = {
            WEIGHTS: lambda path: path.write_bytes(save(state, header)),
            CONFIG: lambda path: path.write_text(json.dumps(self.architecture, indent=2) + "\n"),
            CARD: lambda path: path.write_text(_model_card(self.architecture, self.scale, metadata)),
        }
        for name, write in contents.items():
            with atomic_write(folder / name) as unfinished:
                write(unfinished)
        return folder

    def push_to_hub(self, repository: str, metadata: Mapping[str, str] | None = None, private: bool = False) -> str:
        """Upload what :meth:`save_pretrained` writes, and return the address of the commit.

        Args:
            repository: ``user/name``; made if it does not exist.
            metadata: as of :meth:`save_pretrained`.
            private: whether a repository that is made is private.
        """
        hub = _huggingface_hub()
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metadata)
            api = hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload generator"))

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> Self:
        """Read a network from a folder of :meth:`save_pretrained`, or from the Hub.

        Args:
            source: a folder, or ``user/name`` on the Hub, which is downloaded once and cached.
            revision: branch, tag or commit on the Hub.

        Returns:
            The network in evaluation mode, in float32, on the CPU, with the ``metadata`` of its file.

        Raises:
            FileNotFoundError: when a file of the folder is missing.
            ValueError: when it holds another class of network, weights that do not fit their configuration, or values
                that are NaN or infinite.
        """
        folder = Path(source)
        if not folder.is_dir():
            hub = _huggingface_hub()
            folder = Path(hub.snapshot_download(str(source), revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
        for name in (WEIGHTS, CONFIG):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}; give a folder of save_pretrained, or user/name")
        try:
            arguments = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder / CONFIG} is no JSON ({shown(str(error))}); fetch the folder anew") from error
        if not isinstance(arguments, dict):
            raise ValueError(f"{folder / CONFIG} holds no architecture; give a folder of save_pretrained")
        name = arguments.pop("name", cls.architecture_name)
        if name != cls.architecture_name:
            raise ValueError(
                f"{source} holds an {shown(name)}, not an {cls.architecture_name}; use {shown(name)}.from_pretrained"
            )
        content, header, held = open_tensors(folder / WEIGHTS)
        try:
            network = build_within(lambda: cls(**arguments), len(content))
        except WeightsError as error:
            raise ValueError(f"{source} does not fit its {CONFIG}: {error}") from error
        assert isinstance(network, torch.nn.Module)
        misfit = find_misfit(network, content) or next(
            (f"it has {shown(key)}, too" for key in content if key not in network.state_dict()), None
        )
        if misfit:
            raise ValueError(f"{source} does not fit its {CONFIG}: {misfit}")
        fill(network, usable(content, held, folder / WEIGHTS))
        network.metadata = origin_of(header)
        return network.eval()


def origin_of(header: Mapping[str, str]) -> dict[str, str]:
    """Return what the header of a file of weights says of their origin."""
    origin = {key: value for key, value in header.items() if key not in ("architecture", "format")}
    if "licence" in origin:  # as files of 0.1 spell it
        origin["license"] = origin.pop("licence")
    return origin


def _model_card(architecture: Mapping[str, Any], scale: int, metadata: Mapping[str, str]) -> str:
    """Return the text of a model card: what the network is, where it comes from, how it is used."""
    module, _, name = architecture["name"].rpartition(".")
    imports = f"from esrgan_lit import {name}, upscale"
    if module:
        imports = f"from {module} import {name}\n\nfrom esrgan_lit import upscale"
    license_name = metadata.get("license")
    tags = ["super-resolution", "image-upscaling", "esrgan", "pytorch", f"x{scale}"]
    front = ["library_name: esrgan_lit", "pipeline_tag: image-to-image", f"tags: [{', '.join(tags)}]"]
    named = metadata.get("metrics", "").lower()
    if metrics := [name for name in ("psnr", "ssim", "lpips", "dists", "niqe") if name in named]:
        front.append(f"metrics: [{', '.join(metrics)}]")
    if _ON_THE_HUB.fullmatch(base := metadata.get("base_model", "")):
        front.append(f"base_model: {base}")
    front += [f"license: other\nlicense_name: {json.dumps(license_name)}"] if license_name else []
    facts = {**architecture, **{title: metadata[key] for key, title in _FIELDS.items() if metadata.get(key)}}
    rows = [f"| {key} | {shown(str(value), 1000).replace('|', '/')} |" for key, value in facts.items()]
    channels = architecture.get("channels", 3)
    images = {1: "gray images", 3: "RGB images"}.get(channels, f"images of {channels} channels")
    unknown = [title for key, title in _FIELDS.items() if key in ("training_data", "license") and key not in metadata]
    remark = f"\n{' and '.join(unknown)} are not stated by the file that the weights came from.\n" if unknown else ""
    return (
        "---\n" + "\n".join(front) + f"\n---\n\n# {name}, ×{scale}\n\n"
        f"A generator of ESRGAN (Wang et al. 2018): enlarges {images} {scale} times.\n\n"
        "| | |\n|---|---|\n" + "\n".join(rows) + f"\n{remark}\n"
        "```python\n"
        f"{imports}\n\n"
        f'generator = {name}.from_pretrained("user/name")\n'
        "image = upscale(low_res, generator)  # uint8 (height, width, channels)\n"
        "```\n"
    )


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the Hugging Face Hub needs huggingface_hub: pip install 'esrgan_lit[hub]'") from error
    return huggingface_hub
