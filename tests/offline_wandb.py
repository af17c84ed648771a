"""W&B's offline files, read back: what `wandb sync` would send."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingModuleSource]


class OfflineRun(NamedTuple):
    """A run as its records have it; ``artifacts`` is name → file in it → path of what is to be uploaded."""

    name: str
    group: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    artifacts: dict[str, dict[str, str]]
    exit_code: int | None
    id: str
    sweep: str
    entity: str
    tags: list[str]


def read_offline(folder: Path) -> OfflineRun:
    """Read the only offline run in a folder; W&B's service closes its file a moment after the run was finished."""
    (path,) = folder.rglob("*.wandb")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        run = _read(path)
        if run.exit_code is not None:
            return run
        time.sleep(0.1)
    raise TimeoutError(f"{path} holds no end of its run")


def _read(path: Path) -> OfflineRun:
    name, group, exit_code, origin = "", "", None, ("", "", "", [])
    config: dict[str, Any] = {}
    history, artifacts = [], {}
    for record in read_records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                name, group = run.display_name, run.run_group
                origin = run.run_id, run.sweep_id, run.entity, list(run.tags)
            case "config":
                config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            case "history":
                items = record.history.item
                history.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
            case "artifact":
                entries = record.artifact.manifest.contents
                artifacts[record.artifact.name] = {entry.path: entry.local_path for entry in entries}
            case "exit":
                exit_code = record.exit.exit_code
    return OfflineRun(name, group, config, history, artifacts, exit_code, *origin)


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file: LevelDB's log format (blocks of 32 KiB, records in pieces) behind a header of 7 bytes."""
    data = path.read_bytes()
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little of the block is left for a piece's header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if at > len(data):  # not written yet
            return
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(record)
            record = b""
