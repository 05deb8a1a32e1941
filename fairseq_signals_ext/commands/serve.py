"""Serve a model on this machine: a web page to drop ECG files on, and an HTTP API.

examples:
  fairseq-signals-ext serve run/checkpoints/checkpoint_best.pt
  curl -F file=@ecg.dcm http://127.0.0.1:8000/predict
  curl -F file=@A0001.hea -F file=@A0001.mat \\
      http://127.0.0.1:8000/predict    # WFDB
  curl -F file=@ecg.npy -F sample_rate=500 -F leads=I,II,V1 -F unit=mV \\
      http://127.0.0.1:8000/predict
  curl -F file=@ecg.dcm -F anonymous=1 \\
      http://127.0.0.1:8000/report > report.html

Open the printed address in a browser for the page. /predict returns JSON;
/report the page of the command report, with anonymous=1 without the patient's
identity. One request is one recording. Its files are kept in a temporary folder
until it is answered; files left by a service that was killed are removed. A few
requests are handled at a time, the model runs one after the other, and the rest
wait. Files are read in separate processes: a file that takes more than 15 s or
2 GB to read is refused, and long ones do not delay short ones. A request must
arrive within 120 s and is ended after 10 s without data. A recording can last
up to 24 h, for a report 2 h. Other paths: /model (facts), /health. Ctrl-C stops
it within 5 s.

For research use only. There is no authentication and no encryption, so by
default only this machine can connect.
"""

import argparse
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import warnings
from types import FrameType
from typing import Any, Iterator, Optional

import fairseq_signals_ext
from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.serving.folders import remove_left_folders
from fairseq_signals_ext.serving.limits import Limits

_WAITING = 2048  # connections in the system's queue
# running requests get 2 s of this; the rest is refused
_SECONDS_TO_END = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: only this machine can connect)"
    )
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="port; 0: any free one (default 8000)")
    parser.add_argument("--max-upload-mb", metavar="MB", type=float, default=64, help="largest upload (default 64)")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UserError: the model or the address cannot be used, or there is no folder for uploads.
    """
    # the browser draws letters that are missing in the picture's font
    warnings.filterwarnings("ignore", message=r"Glyph \d+")
    # checked before the model is loaded; starlette needs python_multipart only at the first upload
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401

    from fairseq_signals_ext.serving.app import make_app
    from fairseq_signals_ext.serving.guard import hosts_of, is_local

    if not 1e-3 <= options.max_upload_mb <= 1e5:
        raise UserError(f"--max-upload-mb {options.max_upload_mb:g}: give 0.001 to 100000")
    with _ending_on_signals(), _listening(options.host, options.port) as listening:
        model = fairseq_signals_ext.load(options.checkpoint, **run_arguments.model_options(options))
        remove_left_folders()
        app = make_app(model, Limits(round(options.max_upload_mb * 1e6)), hosts_of(options.host))
        if not is_local(options.host):
            warning = "anyone who can reach it may use it, as there is no authentication and no encryption"
            print(f"warning: --host {options.host}: {warning}", file=sys.stderr)
        print(f"{_address(options.host, listening)}  (Ctrl-C ends it; research use only)", flush=True)
        _serve(app, listening)
    return 0


def _serve(app: Any, listening: socket.socket) -> None:
    import uvicorn

    from fairseq_signals_ext.serving.connections import Connection, Server, allow_many_connections

    allow_many_connections()
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    try:
        Server(config, app.state.service).run(sockets=[listening])
    except SystemExit as end:
        if end.code:
            raise
    # processes and files are cleaned up; a normal exit would wait for a thread with a useless model run, and take
    # seconds to free torch
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end the command normally, with exit status 0."""

    def end(number: int, frame: Optional[FrameType]) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: no such address; give one of this machine, such as 127.0.0.1") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_WAITING)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: is in use; give another, or 0 for any that is free") from None
        raise UserError(f"--host {host} --port {port}: {error.strerror}; give another") from None
    return listening


def _address(host: str, listening: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"
