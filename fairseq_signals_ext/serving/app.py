"""The service itself: what it answers at which path, and how many requests it works on at a time."""

import asyncio
import contextlib
import dataclasses
import functools
import tempfile
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, Iterator, Sequence, Tuple, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from fairseq_signals_ext.errors import MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.reporting.findings import check_options
from fairseq_signals_ext.reporting.page import CONTENT_SECURITY_POLICY as REPORT_POLICY
from fairseq_signals_ext.reporting.report import ReportOptions, report_html
from fairseq_signals_ext.serving.answers import answer, model_facts
from fairseq_signals_ext.serving.guard import Guard, Hosts
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.page import CONTENT_SECURITY_POLICY, PAGE
from fairseq_signals_ext.serving.reading import main_file, read_upload
from fairseq_signals_ext.serving.uploads import ANONYMOUS, FIELDS, Upload, receive_upload

# of a report, also that no other page shows it in a frame
_REPORT_POLICY = f"{REPORT_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
FOLDER_PREFIX = "fairseq-signals-ext-upload-"

Result = TypeVar("Result")


class Service:
    """Answers requests with one model.

    At most `limits.at_once` requests are in work; the others wait, and nothing of them is read meanwhile. Recordings
    are read in one thread (`read_ecg` reads one at a time) and the model runs and reports are made in another, so that
    both work at the same time and memory does not grow with the number of requests.

    Args:
        model: that answers.
        limits: of requests.
    """

    def __init__(self, model: LoadedModel, limits: Limits):
        self._model = model
        self._limits = limits
        self._report_options = _report_options(model)

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Make what belongs to an event loop, and end it with the service."""
        self._turns = asyncio.Semaphore(self._limits.at_once)
        with ThreadPoolExecutor(1, "reader") as self._reader, ThreadPoolExecutor(1, "model") as self._runner:
            yield

    @contextlib.asynccontextmanager
    async def recording(
        self, request: Request, fields: Sequence[str] = FIELDS
    ) -> AsyncIterator[Tuple[Upload, Recording]]:
        """The recording that was uploaded; its files are there until the block ends.

        Args:
            fields: that the request may have.

        Raises:
            UploadError: it cannot be used, or the block raises a `UserError`; in the sender's words.
        """
        async with self._turns:
            with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
                upload = await receive_upload(request, Path(folder), self._limits, fields)
                with self._in_senders_words(upload):
                    yield upload, await _in_thread(self._reader, read_upload, upload, self._limits)

    @contextlib.contextmanager
    def _in_senders_words(self, upload: Upload) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            status = 501 if isinstance(error, MissingPackageError) else getattr(error, "status", 422)
            message = str(error).replace(str(self._model.source), self._model.name)
            raise UploadError(upload.in_senders_words(message), status) from error
        except ModuleNotFoundError as error:
            cure = how_to_install(error.name or "")
            if cure is None:
                raise
            raise UploadError(cure, 501) from error

    async def predict(self, request: Request) -> JSONResponse:
        """`POST /predict`: what the model says of the uploaded recording, see `answers.answer`."""
        async with self.recording(request) as (_, recording):
            prediction = await _in_thread(self._runner, self._model.predict, recording)
            return JSONResponse(answer(recording, prediction, self._model))

    async def report(self, request: Request) -> HTMLResponse:
        """`POST /report`: the page of `report_html` on the uploaded recording; `anonymous=1` hides whose it is."""
        async with self.recording(request, (*FIELDS, ANONYMOUS)) as (upload, recording):
            options = dataclasses.replace(self._report_options, anonymous=upload.anonymous)
            name = upload.names[main_file(upload)]
            make = functools.partial(report_html, self._model, recording, name=name, options=options)
            content = await _in_thread(self._runner, make)
            return HTMLResponse(content, headers={"content-security-policy": _REPORT_POLICY})

    async def model(self) -> Dict[str, Any]:
        """`GET /model`: facts of the model, and the limits that a sender should know."""
        return {**model_facts(self._model), "largest_upload_bytes": self._limits.upload_bytes}

    async def health(self) -> Dict[str, str]:
        """`GET /health`: answers as soon as the model is ready."""
        return {"status": "ok"}

    async def page(self) -> HTMLResponse:
        """`GET /`: the page on which one drops files."""
        return HTMLResponse(PAGE, headers={"content-security-policy": CONTENT_SECURITY_POLICY})


def _report_options(model: LoadedModel) -> ReportOptions:
    """With the map of where the model looked, unless it is an export that only runs."""
    options = ReportOptions()
    try:
        check_options(model, options)
    except UserError:
        return dataclasses.replace(options, saliency=None)
    return options


async def _in_thread(executor: Executor, function: Callable[..., Result], *arguments: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def make_app(model: LoadedModel, limits: Limits, hosts: Hosts) -> FastAPI:
    """The service as an ASGI application; its lifespan has to be run.

    Args:
        model: one with labels.
        limits: of requests.
        hosts: by which the service may be called.

    Raises:
        UserError: the model was only pretrained.
    """
    model.check_predicts()
    service = Service(model, limits)
    # the framework's own pages load scripts from elsewhere
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=service.running)
    app.add_api_route("/predict", service.predict, methods=["POST"], response_model=None)
    app.add_api_route("/report", service.report, methods=["POST"], response_model=None)
    app.add_api_route("/model", service.model, methods=["GET"])
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/", service.page, methods=["GET"], response_model=None)
    app.add_exception_handler(UploadError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, hosts=hosts)
    return app


async def _refused(_: Request, error: Any) -> JSONResponse:
    """One line on what is wrong with a request: our words, or the framework's."""
    is_ours = isinstance(error, UploadError)
    message, status = (str(error), error.status) if is_ours else (str(error.detail), error.status_code)
    return JSONResponse({"error": " ".join(message.split())}, status, getattr(error, "headers", None))


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A mistake of ours, whose traceback belongs in the log only."""
    return JSONResponse({"error": "the service failed; its log says why"}, 500)
