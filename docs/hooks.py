"""What mkdocs makes of this repository: pages of files beside the code, the list of commands, and links between them.

A page may link to any file of the repository, as `../examples/demo/run.sh`, so that links work in a clone as well. If
that file is a page of the site, the link leads there; any other is copied to `files/` in the site.
"""

import argparse
import importlib
import posixpath
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# files of the repository that are pages of the site
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
_COPIED = re.compile(r"\]\(files/([^)#\s]+)")
_FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here, and the files that pages link to."""
    here = [file for file in files if file.is_documentation_page()]
    texts = {file.src_uri: file.content_string for file in here}
    texts = {name: linked(text, "docs") for name, text in texts.items()}
    texts.update({page: linked((ROOT / name).read_text("utf-8"), "") for name, page in PAGES.items()})
    texts["commands.md"] = "\n".join(command_page())
    for file in here:
        files.remove(file)
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for name in sorted({name for text in texts.values() for name in _COPIED.findall(text)}):
        source = name[: -len(".txt")] if name.endswith(".md.txt") else name
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / source)))
    return files


def linked(text: str, folder: str) -> str:
    """The text of a file in a folder of the repository, with links as the site needs them."""

    def target(link: "re.Match[str]") -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in PAGES:
            return PAGES[path]
        if path.startswith("docs/"):
            return path[len("docs/") :]
        if not (ROOT / path).is_file():
            return link[1]  # the strict build names it
        return f"files/{path}.txt" if path.endswith(".md") else f"files/{path}"  # a .md would become a page

    parts = _FENCED.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(target, part) for part in parts)


def command_page() -> Iterator[str]:
    """Lines of the page with all commands and their options, from argparse."""
    from fairseq_signals_ext.cli import COMMANDS

    yield "# Commands\n"
    yield "For looking up an option: all commands, as `fairseq-signals-ext COMMAND --help` prints them.\n"
    yield "| command | purpose |\n| --- | --- |"
    for name, command in COMMANDS.items():
        yield f"| [`{name}`](#{name}) | {command.summary} |"
    yield "| `user-dir` | print the plugin's folder, for `common.user_dir` and `--user-dir` of fairseq's commands |"
    yield "| `configs KIND` | print the folder of the configs of a kind: `pretraining`, `fine_tuning` or `labels` |"
    yield "\n`prepare`, `split`, `label` and `verify` are also scripts in `manifests/`. `--user-dir DIR` before any"
    yield "command also imports a folder of yours, see [Extending](extending.md).\n"
    for name in COMMANDS:
        module = importlib.import_module(f"fairseq_signals_ext.commands.{name}")
        parser = argparse.ArgumentParser(
            prog=f"fairseq-signals-ext {name}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        yield f"\n## {name}\n"
        yield from _described(parser)


def _described(parser: argparse.ArgumentParser) -> Iterator[str]:
    first, _, rest = (parser.description or "").partition("\n")
    yield f"{first}\n"
    usage = argparse.HelpFormatter(parser.prog, width=80)  # not as wide as this terminal
    usage.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    yield f"```text\n{usage.format_help().strip()}\n```\n"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        rows = [_row(action, parser) for action in actions if action not in commands and action.dest != "help"]
        if rows:
            yield f"| {group.title} | |\n| --- | --- |"
            yield "\n".join(rows) + "\n"
        for name, inner in _inner(commands).items():
            yield f"### {parser.prog.split()[-1]} {name}\n"
            yield from _described(inner)
    for more in filter(None, (rest.strip(), parser.epilog)):
        text = parser.formatter_class(parser.prog, width=120)
        text.add_text(more)  # which may add to it
        yield f"```text\n{text.format_help().strip()}\n```\n"


def _inner(commands: List[Any]) -> Dict[str, argparse.ArgumentParser]:
    return {name: parser for action in commands for name, parser in action.choices.items()}


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    name = formatter._format_action_invocation(action) if not action.option_strings else _options(action, formatter)
    text = formatter._expand_help(action) if action.help else ""
    return f"| `{_cell(name)}` | {_cell(text).replace('<', '&lt;')} |"


def _options(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    metavar = "" if action.nargs == 0 else " " + formatter._format_args(action, action.dest.upper())
    return ", ".join(action.option_strings) + metavar


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
