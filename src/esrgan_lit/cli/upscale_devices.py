"""Enlarge on several devices at once: a process for each, which is given the next image when it has done one."""

from __future__ import annotations

import argparse
import importlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from esrgan_lit.cli.upscale_record import Record
from esrgan_lit.cli.upscale_run import Outcome, enlarge, make_generator, make_upscaler, said

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from esrgan_lit.cli.upscale_jobs import Job

_CONTEXT = get_context("spawn")  # CUDA cannot be forked
_MOST_PROCESSES = 256


class _Worker(NamedTuple):
    device: str
    process: BaseProcess
    given: list[Job]


def devices_of(text: str) -> list[str]:
    """Return the device of each process: ``all`` GPUs of the machine, ``0,1`` of them, or ``cpu:4`` processes.

    Raises:
        ValueError: for a device that there is not.
    """
    import torch

    there = torch.cuda.device_count()
    if text == "all":
        return [f"cuda:{number}" for number in range(there)] or ["cpu"]
    kind, _, count = text.partition(":")
    if kind == "cpu" and (count or "1").isdecimal() and 1 <= int(count or 1) <= _MOST_PROCESSES:
        return ["cpu"] * int(count or 1)
    numbers = [each.removeprefix("cuda:") for each in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"--devices {text} names no devices; give all, numbers of GPUs such as 0,1, or cpu:4")
    if missing := [number for number in numbers if int(number) >= there]:
        raise ValueError(
            f"--devices {text}: there is no GPU {', '.join(missing)}, PyTorch finds {there} here; give all, or cpu:4"
        )
    return [f"cuda:{number}" for number in dict.fromkeys(numbers)]


def check_device(text: str) -> None:
    """Raise ValueError for a device that PyTorch does not know, or cannot use here."""
    import torch

    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:120]
        raise ValueError(f"--device {text} cannot be used here ({why} …); use cpu, cuda, cuda:1 or mps") from error


def enlarge_side_by_side(
    jobs: Iterator[Job], count: int, devices: Sequence[str], record: Record, options: argparse.Namespace
) -> Iterator[Outcome]:
    """Enlarge files on several devices, and yield what became of each, as they come.

    A process that ends before its time fails the images that it was at, and another takes its place.

    Args:
        jobs: to do, in this order.
        count: of them.
        devices: of each process; those of the CPU share its cores and its memory.
        record: gets a line for each output, from the processes.
        options: of the command.

    Raises:
        ValueError: where a process cannot be made ready.
    """
    options = argparse.Namespace(**vars(options))  # modules cannot be sent
    options.modules = [module.__name__ for module in options.modules or ()]
    workers = dict[Any, _Worker]()
    devices = devices[:count]  # the cores are shared by those that have something to do

    def start(device: str) -> None:
        ours, theirs = _CONTEXT.Pipe()
        arguments = (theirs, device, devices.count("cpu"), record.without_lock(), options)
        process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        workers[ours] = _Worker(device, process, [])

    try:
        for device in devices:
            start(device)
        while workers:
            for connection in cast(list[Any], wait(list(workers))):
                worker = workers[connection]
                try:
                    message = connection.recv()
                except (EOFError, ConnectionError):  # the process has ended
                    del workers[connection]
                    worker.process.join()
                    for job in worker.given:
                        yield Outcome(
                            job,
                            f"{job.source}: the process on {worker.device} ended at it (exit code "
                            f"{worker.process.exitcode}); the same command tries it again",
                        )
                    if worker.given and count:
                        start(worker.device)
                    continue
                if isinstance(message, Outcome):
                    worker.given.remove(message.job)
                    yield message
                elif isinstance(message, str):
                    raise ValueError(message)
                else:  # it asks for the next
                    job = next(jobs, None)
                    if job is not None:
                        worker.given.append(job)
                        count -= 1
                    with suppress(ConnectionError):  # it has ended, and the next turn finds that out
                        connection.send(job)
    finally:
        for connection, worker in workers.items():
            worker.process.terminate()
            worker.process.join()
            connection.close()


def _work(connection: Connection, device: str, shared_by: int, record: Record, options: argparse.Namespace) -> None:
    """Be the process of a device: ask for images, enlarge them, tell what became of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process

    import torch

    from esrgan_lit.inference.memory import free_memory

    def asked() -> Iterator[Job]:
        while True:
            connection.send(None)
            if (job := connection.recv()) is None:
                return
            yield job

    with suppress(EOFError, ConnectionError):  # the parent is gone
        try:
            for module in options.modules:
                importlib.import_module(module)
            options.device, most = device, options.max_memory
            if device == "cpu" and shared_by > 1:
                torch.set_num_threads(max(1, torch.get_num_threads() // shared_by))
                options.max_memory = (options.max_memory or int(0.9 * free_memory())) // shared_by
            upscaler = make_upscaler(make_generator(options), options)
            options.max_memory = most
        except Exception as error:
            connection.send(f"--devices: {device}: {said(error)}")
            return
        for outcome in enlarge(asked(), upscaler, record, options, lambda done: None):
            connection.send(outcome)
