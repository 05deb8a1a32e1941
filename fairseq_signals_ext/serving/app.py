"""The service: its routes, its start and its end."""

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any, AsyncIterator, Coroutine, Dict, Sequence, Set

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.pages.recording_report import CONTENT_SECURITY_POLICY as REPORT_POLICY
from fairseq_signals_ext.pages.recording_report import report_page
from fairseq_signals_ext.pages.rendering import drop_page
from fairseq_signals_ext.pages.report_findings import ReportFindings, ReportOptions, check_options, find
from fairseq_signals_ext.readers.formats import supported
from fairseq_signals_ext.serving.answers import NOTE, answer, model_facts, refusal_of
from fairseq_signals_ext.serving.bodies import Bodies
from fairseq_signals_ext.serving.folders import upload_folder
from fairseq_signals_ext.serving.guard import Guard, Hosts
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.reading import ReadUpload, read_short_upload, read_upload
from fairseq_signals_ext.serving.upload import Upload
from fairseq_signals_ext.serving.uploads import ANONYMOUS, FIELDS, receive_upload
from fairseq_signals_ext.serving.work import AnswerSteps, Read, ReadShort, UploadQueue

# policy for a report; other pages cannot show it in a frame
_REPORT_POLICY = f"{REPORT_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# s; requests in work may continue for this long when the service ends
_SECONDS_TO_END = 2
_ENDING = "upload: the service is ending; send it again later"


class Service:
    """Answers requests with one model.

    An upload first arrives completely, then waits for its turn, so a slow one does not block others; see `work` for
    the next steps.

    Args:
        model: the model for predictions.
        limits: of requests.
        read_short, read: functions that read uploads, in separate processes.
    """

    def __init__(self, model: LoadedModel, limits: Limits, read_short: ReadShort, read: Read):
        self._model = model
        self._limits = limits
        self._reads = read_short, read
        self._report_options = _report_options(model)
        self._tasks: Set["asyncio.Task[Any]"] = set()
        self._is_ending = False

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Create the objects that belong to an event loop, and end them with the service."""
        self._arriving = asyncio.Semaphore(self._limits.arriving)
        self._large = asyncio.Semaphore(self._limits.at_once)
        self._queue = UploadQueue(self._model, self._limits, *self._reads)
        try:
            yield
        finally:
            self._queue.end()

    def warm(self) -> None:
        """Start the reading processes before the first upload; call it in the event loop."""
        self._queue.warm()

    def end(self) -> None:
        """Let requests in work continue for a moment, and refuse new ones; call it in the event loop."""
        self._is_ending = True
        for task in self._tasks:
            asyncio.get_running_loop().call_later(_SECONDS_TO_END, task.cancel)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: the model's predictions for the uploaded recording, see `answers.answer`."""
        return await self._answer(request, FIELDS, AnswerSteps(self._predict, self._respond_prediction))

    async def report(self, request: Request) -> Response:
        """`POST /report`: the page of `report_html` on the uploaded recording; `anonymous=1` hides the patient."""
        return await self._answer(request, (*FIELDS, ANONYMOUS), AnswerSteps(self._find, self._respond_report))

    async def model(self) -> Dict[str, Any]:
        """`GET /model`: facts about the model, and the limits for requests."""
        return {**model_facts(self._model), "largest_upload_bytes": self._limits.upload_bytes}

    async def health(self) -> Dict[str, str]:
        """`GET /health`: answers as soon as the model is ready."""
        return {"status": "ok"}

    async def page(self) -> HTMLResponse:
        """`GET /`: the page to drop files on."""
        page = drop_page(NOTE, supported())
        return HTMLResponse(page.html, headers={"content-security-policy": page.policy})

    def _predict(self, model: LoadedModel, _: Upload, found: ReadUpload) -> Prediction:
        return model.predict(found.recording)

    def _respond_prediction(self, found: ReadUpload, prediction: Prediction) -> Response:
        return JSONResponse(answer(found.recording, prediction, self._model))

    def _find(self, model: LoadedModel, upload: Upload, found: ReadUpload) -> ReportFindings:
        hours, most = found.recording.samples / found.recording.sample_rate / 3600, self._limits.report_hours
        if hours > most:
            hint = "send a part of it, or ask /predict"
            raise UploadError(f"{found.name}: lasts {hours:.1f} h, more than the {most:g} h of a report; {hint}")
        options = dataclasses.replace(self._report_options, anonymous=upload.anonymous)
        return find(model, found.recording, found.name, options)

    def _respond_report(self, _: ReadUpload, findings: ReportFindings) -> Response:
        return HTMLResponse(report_page(findings), headers={"content-security-policy": _REPORT_POLICY})

    async def _answer(self, request: Request, fields: Sequence[str], steps: AnswerSteps[Any]) -> Response:
        """Answer an upload; its files are kept until then.

        Args:
            fields: allowed fields of the request.

        Raises:
            UploadError: the upload cannot be answered; the message uses the sender's file names.
        """
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._is_ending:
                raise UploadError(_ENDING, 503)
            with upload_folder() as folder:
                return await self._answer_in(folder, request, fields, steps)
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            raise UploadError(_ENDING, 503) from None
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            self._tasks.discard(task)

    async def _answer_in(
        self, folder: Path, request: Request, fields: Sequence[str], steps: AnswerSteps[Any]
    ) -> Response:
        async with contextlib.AsyncExitStack() as waiting:
            await waiting.enter_async_context(self._arriving)

            async def enlarge() -> None:
                await waiting.enter_async_context(self._large)

            upload = await receive_upload(request, folder, self._limits, fields, enlarge)
            try:
                return await _while_connected(request, self._queue.answer(upload, steps, waiting))
            except UserError as error:
                refusal = refusal_of(error)
                assert refusal is not None
                message = str(refusal).replace(str(self._model.source), self._model.name)
                raise UploadError(upload.in_senders_words(message), refusal.status, refusal.missing) from error


async def _while_connected(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """Wait for the answer, and stop if the sender disconnects."""

    async def sender_goes() -> None:
        if (await request.receive())["type"] != "http.disconnect":
            await asyncio.get_running_loop().create_future()

    answered, gone = asyncio.ensure_future(answering), asyncio.ensure_future(sender_goes())
    try:
        await asyncio.wait([answered, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise UploadError("upload: was broken off; send it again", 400)
        return answered.result()
    finally:
        answered.cancel()
        gone.cancel()
        await asyncio.gather(answered, gone, return_exceptions=True)


def _report_options(model: LoadedModel) -> ReportOptions:
    """Options of reports: with a saliency map, except for ONNX and TorchScript exports."""
    options = ReportOptions()
    try:
        check_options(model, options)
    except UserError:
        return dataclasses.replace(options, saliency=None)
    return options


def make_app(
    model: LoadedModel,
    limits: Limits,
    hosts: Hosts,
    read_short: ReadShort = read_short_upload,
    read: Read = read_upload,
) -> FastAPI:
    """Make the service as an ASGI application; its lifespan must be run. Its `state.service` is the `Service`.

    Args:
        model: a model with labels.
        limits: of requests.
        hosts: host names that requests may use.
        read_short, read: module-level functions that read uploads, see `reading`.

    Raises:
        UserError: the model was only pretrained.
    """
    model.check_predicts()
    service = Service(model, limits, read_short, read)
    # the framework's own pages load scripts from other servers
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
    app.add_middleware(Bodies, limits=limits)
    app.state.service = service
    return app


async def _refused(request: Request, error: Any) -> JSONResponse:
    """One line about the problem with a request, and the missing field."""
    is_ours = isinstance(error, UploadError)
    message, status = (str(error), error.status) if is_ours else (_not_routed(request, error), error.status_code)
    missing = {"missing": error.missing} if is_ours and error.missing else {}
    return JSONResponse({"error": " ".join(message.split()), **missing}, status, getattr(error, "headers", None))


def _not_routed(request: Request, error: HTTPException) -> str:
    """Why no route accepts a request, with the existing routes."""
    path, headers = request.url.path, error.headers or {}
    if error.status_code == 405 and "Allow" in headers:
        return f"{path}: does not take {request.method}; send {headers['Allow']}"
    if error.status_code == 404:
        routes = sorted(f"{method} {route.path}" for route in request.app.routes for method in route.methods or ())
        return f"{path}: no such address; there are {', '.join(routes)}"
    return str(error.detail)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """Answer for an error in the service; its traceback is only in the log."""
    return JSONResponse({"error": "the service failed; see its log"}, 500)
