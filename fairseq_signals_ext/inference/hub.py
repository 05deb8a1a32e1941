"""Download models from the Hugging Face hub: `hf:OWNER/REPO/FILE` -> a path in its cache."""

import glob
import re
from pathlib import Path

from fairseq_signals_ext.checkpoints.description import CONFIG_FILE
from fairseq_signals_ext.common.errors import UserError, first_line

PREFIX = "hf:"
_SOURCE = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<path>.+?))?/?")


def fetch(source: str) -> Path:
    """Download a file or an export from the hub, and return its path in `huggingface_hub`'s cache.

    Settings of `huggingface_hub` apply: `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, ...

    Args:
        source: `hf:OWNER/REPO/FILE.pt`, or `hf:OWNER/REPO` or `hf:OWNER/REPO/FOLDER` of an export; `@REVISION` can
            follow the repository.

    Raises:
        UserError: the format is wrong, there is no such file, or it is not in the cache and cannot be downloaded.
        ModuleNotFoundError: `huggingface_hub` is not installed.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    found = _SOURCE.fullmatch(source)
    parts = "/".join(filter(None, found.groups())).split("/") if found else []
    if found is None or {"", ".", ".."} & {*parts}:  # these lead out of the repository's folder in the cache
        raise UserError(f"{source}: write it as hf:OWNER/REPO/FILE.pt, or hf:OWNER/REPO/FOLDER of an export")
    repo, revision, path = found["repo"], found["revision"], found["path"] or ""
    try:
        if path.endswith(".pt"):
            return Path(hf_hub_download(repo, path, revision=revision))
        folder = re.sub(rf"(^|/){re.escape(CONFIG_FILE)}$", "", path)
        inside = f"{glob.escape(folder)}/" if folder else ""
        patterns = [inside + CONFIG_FILE, f"{inside}model.*"]
        fetched = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns)) / folder
    except Exception as error:  # errors of the library, of its network libraries, and of the system
        raise UserError(f"{source}: {_what_is_wrong(error)}") from None
    if not (fetched / CONFIG_FILE).is_file():
        raise UserError(f"{source}: has no {CONFIG_FILE}; give a FILE.pt, or the FOLDER of an export")
    return fetched


def _what_is_wrong(error: Exception) -> str:
    """The problem and a hint, in one line."""
    from huggingface_hub import errors

    # the first match counts: later ones are more general
    known = {
        errors.GatedRepoError: "its owner asks for consent; give it on the hub's page of it, then `hf auth login`",
        errors.RepositoryNotFoundError: "no such repository, or a private one; correct the name, or `hf auth login`",
        errors.RevisionNotFoundError: "no such revision; give a branch, tag or commit of the repository",
        errors.LocalEntryNotFoundError: "not in the cache, and the hub is out of reach; connect, or give a local file",
        errors.EntryNotFoundError: "no such file in the repository; correct the name",
    }
    for kind, message in known.items():
        if isinstance(error, kind):
            return message
    return f"cannot be fetched ({first_line(error)}); try again, or give a local file"
