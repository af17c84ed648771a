"""Check what a configuration names, evaluate, and write the report: all of ``esrgan-evaluate`` but its entry."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import Method, Runner, alpha_series, bicubic, name_sources, network
from esrgan_lit.evaluation.test_sets import TestSet, open_sets
from esrgan_lit.files import anonymous, cache_folder, file_name, write_text
from esrgan_lit.inference.engines import default_device
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError
from esrgan_lit.metrics.registry import for_channels, make_metric
from esrgan_lit.overrides import as_override
from esrgan_lit.reports.evaluation import SetReport, as_markdown, protocols, results_table
from esrgan_lit.reports.evaluation_page import draw_plane, view, write_evaluation, write_pictures
from esrgan_lit.reports.plots import pyplot
from esrgan_lit.training.annotations import check_kind

log = logging.getLogger(__name__)

_Paths = str | Sequence[str] | Mapping[str, str] | None
# Of what kind each value of the configuration is; what holds others stands before them.
_KINDS: dict[str, Any] = {
    "hr": str | Sequence[str] | None,
    "lr": str | None,
    "sets": Mapping[str, Mapping[str, Any]] | None,
    "scale": int,
    "data_root": str,
    "weights": _Paths,
    "images": _Paths,
    "bicubic": bool,
    "sweep": Mapping[str, Any],
    "sweep.psnr": str | None,
    "sweep.gan": str | None,
    "sweep.alphas": Sequence[float],
    "sweep.by": Sequence[str],
    "back_project": str | None,
    "metrics": Mapping[str, Any],
    "metrics.names": Sequence[Any],
    "device": str | None,
    "engine": str,
    "workers": int | None,
    "cache": str | None,
    "crops": int,
    "crop": int,
    "page_megabytes": float,
}


class Plan(NamedTuple):
    """An evaluation, all of it opened and checked.

    Attributes:
        sets: the test sets.
        methods: besides the sets' finished images.
        sources: method → where it comes from, for all methods.
        metrics: to measure.
        absent: metric → why it cannot be measured.
    """

    sets: list[TestSet]
    methods: list[Method]
    sources: dict[str, str]
    metrics: list[Metric]
    absent: dict[str, str]


def prepare(config: DictConfig) -> Plan:
    """Open and check everything that a configuration names.

    Raises:
        ValueError: for what is wrong with it.
        OSError: for files that are not there.
        ModuleNotFoundError: when pictures cannot be drawn.
    """
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    for key, kind in (_KINDS | get_type_hints(MetricOptions)).items():
        place = key if key in _KINDS else f"metrics.{key}"
        value = settings
        for part in place.split("."):
            value = value[part]
        check_kind(place, value, kind, ...)
    for key in ("crops", "crop", "workers"):
        if settings[key] is not None and settings[key] < 1:
            raise ValueError(f"{key}={settings[key]} is not positive; give 1 or more, or leave it out")
    pyplot()
    scale = settings["scale"]
    degradation = Bicubic(scale, settings["boundary"], settings["low_res_form"])
    settings["metrics"].pop("names")
    channels = settings["channels"]
    names = for_channels(instantiate(config.metrics.names, _convert_="all"), channels)
    options = MetricOptions(**settings["metrics"])
    metrics, absent = [], {}
    for name in names:
        try:
            metrics.append(make_metric(name, scale, options))
        except MetricUnavailableError as error:
            absent[name] = str(error)
            log.warning("%s is absent: %s", name, error)
    if not metrics:
        raise ValueError("no metric can be had; add one that needs nothing, such as psnr_y, to metrics.names")
    finished = name_sources(settings["images"])
    engine = settings["engine"]
    device = torch.device(settings["device"]) if settings["device"] else default_device(engine)
    runner = Runner(scale, device, settings["back_project"], channels, engine)
    methods = _open_methods(settings, runner)
    sources = {method.name: method.source for method in methods}
    for name in finished:
        if name in sources:
            remedy = as_override("images", {"NAME": finished[name]})
            raise ValueError(f"two methods are called {name!r}; name them: {remedy}")
    sets = open_sets(set_settings(settings, finished), degradation, settings["data_root"], channels)
    if not methods and not finished:
        raise ValueError(
            "nothing to evaluate; give weights=FILE, images=FOLDER, sweep.psnr and sweep.gan, or bicubic=true"
        )
    return Plan(
        sets, methods, sources | {name: f"images in {path}" for name, path in finished.items()}, metrics, absent
    )


def set_settings(settings: Mapping[str, Any], finished: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the settings of the test sets, those of ``sets`` and the one of ``hr``, each with the finished images."""
    sets = {name: dict(setting) for name, setting in (settings["sets"] or {}).items()}
    if settings["hr"] is not None:
        path = Path(settings["hr"])
        name = path.parent.name if path.name.upper() in ("HR", "GT") and path.parent.name else path.stem
        sets[name or "images"] = {"hr": settings["hr"], "lr": settings["lr"]}
    elif settings["lr"] is not None:
        raise ValueError(f"lr={settings['lr']} has no hr beside it; give hr=FOLDER, the ground truths")
    if not sets:
        raise ValueError("no test set: give hr=FOLDER, or +benchmark=set5, or +benchmark=[set5,set14]")
    for name, setting in sets.items():
        unknown = setting.keys() - {"hr", "lr", "catalogue", "layouts", "page", "border", "finished"}
        if unknown or not (setting.get("hr") or setting.get("catalogue") or setting.get("layouts")):
            raise ValueError(
                f"sets.{name} is {setting}; it takes hr: FOLDER or catalogue: NAME, and optionally lr: FOLDER (or a "
                "pattern of several, FOLDER/deg_*) and border: PIXELS"
            )
        border = setting.get("border")
        if border is not None and (not isinstance(border, int) or isinstance(border, bool) or border < 0):
            raise ValueError(f"sets.{name}.border is {border!r}; give whole pixels of 0 or more, or null for the usual")
        setting["finished"] = {**finished, **(setting.get("finished") or {})}
    return sets


def _open_methods(settings: Mapping[str, Any], runner: Runner) -> list[Method]:
    """Open bicubic, the weights and the α series, as far as they are asked for."""
    methods = [bicubic(runner.scale)] if settings["bicubic"] else []
    methods += [network(name, path, runner) for name, path in name_sources(settings["weights"]).items()]
    ends = settings["sweep"]["psnr"], settings["sweep"]["gan"]
    if any(ends):
        if not all(ends):
            raise ValueError("a sweep needs both ends: sweep.psnr=FILE sweep.gan=FILE")
        methods += alpha_series(*ends, settings["sweep"]["alphas"], runner, settings["sweep"]["by"])
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two methods are called {twice[0]!r}; name them: weights={{NAME: FILE, …}}")
    return methods


def run(config: DictConfig, plan: Plan) -> Path:
    """Evaluate and write everything.

    Args:
        config: composed.
        plan: of :func:`prepare`.

    Returns:
        The folder that everything is in.
    """
    folder = Path(config.output_dir)
    cache = Path(config.cache) if config.cache else cache_folder() / "evaluation"
    results = evaluate(plan.sets, plan.methods, plan.metrics, cache, config.workers or os.cpu_count() or 1)
    reports = [SetReport(test_set, results, plan.metrics) for test_set in plan.sets]
    write_text(folder / "results.csv", anonymous(results_table(reports).csv()))
    write_text(folder / "results.md", anonymous(as_markdown(reports, plan.absent, plan.sources)))
    _print_tables(reports, plan)
    views, planes, pictures = {}, {}, []
    for report in reports:
        name = report.test_set.name
        views[name] = [view(report, case, config.crops, config.crop) for case in report.test_set.cases]
        write_pictures(report, views[name], folder / "pictures")
        try:
            plane = folder / file_name(f"plane_{name}.png")
            planes[name] = draw_plane(report, plane)
            pictures.append(plane.name)
        except ValueError as error:
            log.warning("%s: %s", name, error)
    page = folder / "index.html"
    write_evaluation(reports, views, planes, plan.absent, plan.sources, config.page_megabytes, page)
    for each in ("results.csv", "results.md", "pictures", *pictures, "index.html"):
        print(f"{folder / each}")
    return folder


def _print_tables(reports: list[SetReport], plan: Plan) -> None:
    """Print the figures of each set, what is to be said on them, and what they mean."""
    for report in reports:
        print(f"\n{report.test_set.name}: {len(report.results)} images; {report.test_set.origin}")
        print(report.table.text())
        for line in (*report.regions, *report.notes, report.literature_remark):
            if line:
                print(f"  {line}")
    print()
    for title, protocol in protocols(reports).items():
        print(f"{title}: {protocol}")
    for name, reason in plan.absent.items():
        print(f"{name} is absent: {reason}")
    print("* best of its column\n")
