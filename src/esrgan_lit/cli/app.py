"""``esrgan-app``: a page in the browser that enlarges photographs on this machine."""

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from esrgan_lit.cli.upscale_options import bytes_of

_PREFIX, _LOCK = "esrgan-app-", "lock"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Before Gradio is imported: no figures about its use, and no file outside the page's own folder.
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_TELEMETRY": "1"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-app``."""
    options = _parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
    if importlib.util.find_spec("gradio") is None:
        sys.exit("esrgan-app: the page is made by Gradio, which is not installed: pip install 'esrgan_lit[app]'")
    for path in options.checkpoint:
        if not Path(path).exists():
            sys.exit(f"esrgan-app: --checkpoint {path} does not exist (looked in {Path.cwd()}); give a file of weights")
    _check_port(options.host, options.port)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    _remove_leftovers()
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / _LOCK),  # which the system lets go when the process ends, however it ends
    ):
        os.environ |= {**_QUIET, "GRADIO_TEMP_DIR": str(Path(folder) / "uploads")}
        from esrgan_lit.cli.app_page import serve

        address, close = serve(Path(folder), options)
        if options.host not in _LOOPBACK:
            print(
                f"esrgan-app: warning: everybody who reaches {options.host} can use this page; --host 127.0.0.1 is for "
                "this machine alone",
                file=sys.stderr,
            )
        print(f"open {address} in a browser; Ctrl-C ends it and removes what was uploaded ({folder})", flush=True)
        try:
            stop.wait()
        except KeyboardInterrupt:
            print("\nesrgan-app: stopped", file=sys.stderr)
        finally:
            close()


def _remove_leftovers() -> None:
    """Remove the folders of pages that were killed: nobody holds their locks, and others' cannot be opened."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # Timeout: its page is served
            if (folder / _LOCK).is_file() and not folder.is_symlink():
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def _check_port(host: str, port: int) -> None:
    """End with a line where nothing can listen there."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except (OSError, OverflowError) as error:
        sys.exit(
            f"esrgan-app: cannot listen on {host}, port {port} ({error}); choose another: --port {port % 60000 + 1}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("esrgan-app", description="A page in the browser that enlarges photographs.")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="FILE", help="weights to offer beside the releases that are here"
    )
    parser.add_argument("--host", default=_LOOPBACK[0], help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument("--max-memory", type=bytes_of, help="what the process may take, for example 8G")
    return parser
