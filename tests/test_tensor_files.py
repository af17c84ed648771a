"""No file runs code: the sources have one way to read tensors, and hostile files are given to every option."""

import ast
import contextlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from esrgan_lit import RRDBNet, load_generator, save_generator
from esrgan_lit.cli import compare, data, evaluate_run, report, upscale
from esrgan_lit.cli.export import export_main
from esrgan_lit.cli.interpolate import interpolate_main
from esrgan_lit.evaluation.methods import read_network
from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.tensor_files import WeightsError, open_tensors, read_state, shown, tensors_only
from esrgan_lit.training.trainer import prepare

ROOT = Path(__file__).parents[1]

# Calls that may run what is in a file, by the end of their name.
FORBIDDEN = {
    "hub.load", "hub.load_state_dict_from_url", "load_state_dict_from_url", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "dill.load", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "load_from_file", "read_pickle",
}  # fmt: skip
# Programs of PyTorch are run where they have just been written.
OWN_PROGRAMS = {"jit.load", "export.load"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_sources_read_files_in_no_way_that_could_run_them() -> None:
    files = [*(ROOT / "src").rglob("*.py")]
    assert len(files) > 60
    found = 0
    for path in files:
        for name, call in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            place = f"{path}:{call.lineno}: {name}"
            if name in ("eval", "exec"):  # of annotations in Python modules, and nothing else
                assert ast.unparse(call.args[0]) == "annotation", place
            assert not any(name == each or name.endswith(f".{each}") for each in FORBIDDEN), place
            if name == "torch.load":
                assert given.get("weights_only") == "True", place
                found += 1
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", "False") == "False", place
            if name.endswith(tuple(OWN_PROGRAMS)):
                assert path.name == "runtimes.py", place
            if name.endswith(".fit") and "ckpt_path" in given:
                assert given.get("weights_only") == "True", place
    assert found


# Payloads: reading one as pickle does makes a file.


class Payload:
    """An object whose reading runs a program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Program(nn.Module):
    """A network of TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def as_checkpoint(run: Payload) -> dict[str, Any]:
    return {"state_dict": RRDBNet(4, 1, 8, 4).state_dict(), "optimizer_states": [], "loops": {}, "extra": run}


def write_zip(path: Path, run: Payload) -> None:
    torch.save(as_checkpoint(run), path)


def write_legacy(path: Path, run: Payload) -> None:
    torch.save(as_checkpoint(run), path, _use_new_zipfile_serialization=False)


def write_pickle(path: Path, run: Payload) -> None:
    path.write_bytes(pickle.dumps(run, protocol=2))


def write_torchscript(path: Path, run: Payload) -> None:
    torch.jit.save(torch.jit.trace(Program(), torch.zeros(1)), path)


def write_torchscript_with_weights(path: Path, run: Payload) -> None:
    """A TorchScript archive whose own ``data.pkl`` is the payload."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps(run, protocol=2))
        archive.writestr("net/constants.pkl", pickle.dumps(run, protocol=2))
        archive.writestr("net/version", "3")


def write_tar(path: Path, run: Payload, first: str = "pickle") -> None:
    """PyTorch's first format, which it still reads."""
    with tarfile.open(path, "w") as archive:
        for name in (first, "storages", "tensors", "pickle"):
            content = pickle.dumps(run, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_disguised_tar(path: Path, run: Payload) -> None:
    write_tar(path, run, "\x80\x02}")  # begins as a pickle does


def write_npy(path: Path, run: Payload) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([run], dtype=object), allow_pickle=True)


def write_npz(path: Path, run: Payload) -> None:
    with path.open("wb") as file:
        content = np.array([run], dtype=object)
        np.savez(file, mu_pris_param=content, cov_pris_param=content)


def write_yaml(path: Path, run: Payload) -> None:
    path.write_text(f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{run.path}]]\n")


PAYLOADS: dict[str, Callable[[Path, Payload], None]] = {
    "zip": write_zip,
    "legacy": write_legacy,
    "pickle": write_pickle,
    "TorchScript": write_torchscript,
    "TorchScript with weights": write_torchscript_with_weights,
    "tar": write_tar,
    "disguised tar": write_disguised_tar,
    "npy": write_npy,
    "npz": write_npz,
    "YAML": write_yaml,
}


def test_the_payloads_do_run_where_they_are_read_carelessly(tmp_path: Path) -> None:
    """Or the test below could not fail."""
    ran = tmp_path / "has_run"
    careless: dict[str, Callable[[Path], object]] = {
        "zip": lambda path: torch.load(path, weights_only=False),
        "legacy": lambda path: torch.load(path, weights_only=False),
        "pickle": lambda path: pickle.loads(path.read_bytes()),
        "npy": lambda path: np.load(path, allow_pickle=True),
        "npz": lambda path: np.load(path, allow_pickle=True)["mu_pris_param"],
    }
    for kind, read in careless.items():
        PAYLOADS[kind](tmp_path / kind, Payload(ran))
        read(tmp_path / kind)
        assert ran.exists(), kind
        ran.unlink()


REFUSALS = (SystemExit, ValueError, OSError, MetricUnavailableError)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript archive")
@pytest.mark.parametrize("kind", PAYLOADS)
def test_no_option_that_takes_a_file_runs_it(
    kind: str,
    tmp_path: Path,
    photograph_folder: Path,
    configure: Callable[..., DictConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran, good, out = tmp_path / "has_run", tmp_path / "good.safetensors", tmp_path / "out"
    save_generator(RRDBNet(4, 1, 8, 4), good)
    picture = photograph_folder / "a.png"
    bad = {
        suffix: tmp_path / f"bad{suffix}" for suffix in (".pth", ".pt", ".ckpt", ".safetensors", ".npz", ".png", ".tif")
    }
    for path in bad.values():
        PAYLOADS[kind](path, Payload(ran))
    run_folder = make_run(tmp_path / "run", PAYLOADS[kind], ran)
    folder = tmp_path / "pictures"
    folder.mkdir()
    PAYLOADS[kind](folder / "bad.png", Payload(ran))

    def evaluated(*overrides: str) -> None:
        with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            config = compose("evaluate", [f"hr={photograph_folder}", "metrics.names=[psnr_y]", *overrides])
        plan = evaluate_run.prepare(config)
        assert not plan.absent, plan.absent
        raise AssertionError("it is not refused")

    def trained(experiment: str, *overrides: str) -> None:
        prepare(configure(experiment, *overrides))

    def validated(metric: str, option: str) -> None:
        trained(
            "psnr_rrdb23", f"stage.validation.metrics=[{metric}]", f"stage.validation.options.{option}={bad['.npz']}"
        )

    attempts: dict[str, Callable[[], object]] = {
        **{f"load_generator {suffix}": (lambda path=path: load_generator(path)) for suffix, path in bad.items()},
        **{f"evaluation's reader {suffix}": (lambda path=path: read_network(path)) for suffix, path in bad.items()},
        "upscale --checkpoint": lambda: upscale.main([str(picture), "-o", str(out), "--checkpoint", str(bad[".pth"])]),
        "upscale INPUT": lambda: upscale.main([str(bad[".png"]), "-o", str(out), "--checkpoint", str(good)]),
        "upscale TIFF": lambda: upscale.main([str(bad[".tif"]), "-o", str(out), "--checkpoint", str(good)]),
        "export": lambda: export_main([str(bad[".pt"]), "-o", str(out / "net.onnx")]),
        "interpolate": lambda: interpolate_main(
            [str(good), str(bad[".ckpt"]), "--alpha", "0.5", "-o", str(out / "a.safetensors")]
        ),
        "interpolate --images": lambda: interpolate_main(
            [str(good), str(good), "--alpha", "0.5", "-o", str(out / "b.safetensors"), "--images", str(bad[".png"])]
        ),
        "compare": lambda: compare.main([str(bad[".ckpt"]), str(good), "-o", str(out)]),
        "compare --images": lambda: compare.main([str(good), str(good), "--images", str(folder), "-o", str(out)]),
        "from_pretrained": lambda: RRDBNet.from_pretrained(run_folder),
        "evaluate weights=": lambda: evaluated(f"weights={bad['.pt']}"),
        "evaluate sweep.psnr=": lambda: evaluated(f"sweep.psnr={bad['.pth']}", f"sweep.gan={good}"),
        "evaluate hr=": lambda: evaluated(f"hr={folder}"),
        "evaluate metrics.lpips_weights=": lambda: evaluated(
            "metrics.names=[psnr_y,lpips]", f"metrics.lpips_weights={bad['.pth']}"
        ),
        "evaluate metrics.dists_weights=": lambda: evaluated(
            "metrics.names=[psnr_y,dists]", f"metrics.dists_weights={bad['.pth']}"
        ),
        "evaluate metrics.niqe_parameters=": lambda: evaluated(
            "metrics.names=[psnr_y,niqe]", f"metrics.niqe_parameters={bad['.npz']}"
        ),
        "train resume=": lambda: trained("psnr_rrdb23", f"resume={bad['.ckpt']}"),
        "train resume=auto": lambda: trained(
            "psnr_rrdb23", "resume=auto", f"output_dir={run_folder}", "trainer.max_steps=0"
        ),
        "train stage.start_from=": lambda: trained("gan_rrdb23", f"stage.start_from={bad['.ckpt']}"),
        "train stage.discriminator_from=": lambda: trained("gan_rrdb23", f"stage.discriminator_from={bad['.pth']}"),
        "train stage.perceptual.weights=": lambda: trained("gan_rrdb23", f"stage.perceptual.weights={bad['.pth']}"),
        "train data.train=": lambda: trained("psnr_rrdb23", f"data.train=[{folder}]"),
        "train data.validation=": lambda: trained("psnr_rrdb23", f"data.validation=[{folder}]"),
        "train stage.validation.options.niqe_parameters=": lambda: validated("niqe", "niqe_parameters"),
        "train stage.validation.options.lpips_weights=": lambda: validated("lpips", "lpips_weights"),
        "train stage.validation.options.dists_weights=": lambda: validated("dists", "dists_weights"),
    }  # fmt: skip
    for attempt, use in attempts.items():
        with pytest.raises((*REFUSALS, AssertionError)) as caught:
            use()
        if attempt.startswith(("upscale", "export", "interpolate")):  # whole commands, which end in a line
            assert isinstance(caught.value, SystemExit), attempt
        if isinstance(caught.value, SystemExit):
            assert caught.value.code not in (0, None), f"{attempt} ends as if nothing were wrong"
        assert "not refused" not in str(caught.value), attempt
        assert not ran.exists(), f"{attempt} ran the file"
    # What looks at many files passes these over.
    for command in (
        lambda: report.main([str(run_folder), "-o", str(out / "report")]),
        lambda: data.main(["check", str(folder), "--csv", str(out / "check.csv")]),
        lambda: data.main(["pack", str(folder), "-o", str(out / "packed")]),
        lambda: data.main(["check", str(photograph_folder), "--low-res", str(folder), "--csv", str(out / "check.csv")]),
    ):
        with contextlib.suppress(*REFUSALS):
            command()
        assert not ran.exists()
    capsys.readouterr()


def make_run(folder: Path, write: Callable[[Path, Payload], None], ran: Path) -> Path:
    """Make a training's folder in which everything that is read is the payload."""
    for inside in (
        "checkpoints/last.ckpt",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "multirun.yaml",
        "csv/metrics.csv",
    ):
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        write(folder / inside, Payload(ran))
    for inside in ("model.safetensors", "config.json", "config.yaml"):
        write(folder / inside, Payload(ran))
    return folder


# The reader itself


def test_libraries_read_nothing_but_tensors(tmp_path: Path) -> None:
    write_zip(tmp_path / "bad.pth", Payload(tmp_path / "has_run"))
    with tensors_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "bad.pth", weights_only=False)
    assert not (tmp_path / "has_run").exists()


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "small.pth") as small, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in small.infolist():
            content = small.read(entry)
            if entry.filename.endswith("data/0"):
                content = bytes(100_000_000)
            bomb.writestr(entry.filename, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"bomb\.pth would unpack to 100,\d+,\d+ bytes from .*: it is forged"):
        open_tensors(tmp_path / "bomb.pth")


def test_numbers_of_numpy_are_numbers_and_other_objects_nothing(tmp_path: Path) -> None:
    values = {"f": np.float64(1.5), "h": np.float16(0.5), "i": np.int64(-3), "u": np.uint8(200), "b": np.bool_(True)}
    big = np.dtype(">i4").type(7)
    odd = {"text": np.str_("a"), "array": np.ones(3), "date": np.datetime64("2020-01-01"), "path": Path("x")}
    for legacy in (False, True):
        torch.save({**values, **odd, "big": big}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        content = open_tensors(tmp_path / "a.pth").content
        assert {key: content[key] for key in values} == values
        assert content["big"] == 7
        assert not any(isinstance(content[key], str | np.ndarray | Path) for key in odd)


def test_state_dicts_are_read_flat(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2).half(), "epoch": 3}, tmp_path / "a.pth")
    state = read_state(tmp_path / "a.pth")
    assert list(state) == ["a"]
    assert state["a"].dtype == torch.float32
    for content, message in (([1], "holds a list"), ({"epoch": 3}, "holds no tensors")):
        torch.save(content, tmp_path / "b.pth")
        with pytest.raises(WeightsError, match=rf"b\.pth {message}"):
            read_state(tmp_path / "b.pth")


def test_what_is_shown_is_one_short_line() -> None:
    assert shown("a\nb\x1b[31m") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m"
    assert len(shown("x" * 5000)) == 100
    nested: list[Any] = [1]
    for _ in range(50):
        nested = [nested] * 10
    assert len(shown(nested)) <= 100


def test_pictures_are_no_weights(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.pth", "png")
    with pytest.raises(WeightsError, match=r"a\.pth is a PNG image"):
        open_tensors(tmp_path / "a.pth")
