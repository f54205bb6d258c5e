"""From a run folder to one HTML file: nothing outside it is loaded, and nothing inside it runs but our own script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from verdictscope import provenance
from verdictscope.report import origin
from verdictscope.report.compare import comparison
from verdictscope.report.kinds import kind_of, same_kind
from verdictscope.report.ladder import climb
from verdictscope.report.marks import mark
from verdictscope.report.record import Record
from verdictscope.report.words import LONGEST, clip, number, visible

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Record, out: Path) -> dict[str, Any]:
    """Write the report of a run.

    Args:
        run: a run folder, finished or not.
        out: the HTML file, written whole or not at all.

    Returns:
        what ``verdictscope report --json`` prints: the file, its size, the missing stages, the rungs.
    """
    rungs = climb(run)
    text = render("report.html", report_context(run) | {"rungs": rungs})
    provenance.write_text(out, text)
    return {
        "report": str(out),
        "bytes": len(text.encode()),
        "missing": run.missing,
        "rungs": [rung.to_dict() for rung in rungs],
    }


def write_comparison(first: Record, second: Record, out: Path) -> dict[str, Any]:
    """Write two runs side by side.

    Args:
        first: a run folder, finished or not.
        second: another.
        out: the HTML file, written whole or not at all.

    Returns:
        what ``verdictscope report --json`` prints: the file, its size, missing stages and rungs of each, differences.

    Raises:
        InputError: the runs are of two kinds.
    """
    same_kind(first, second)
    compared = comparison(first, second)
    ladders = [climb(first, second), climb(second, first)]
    figures = [{f["name"]: f for f in figure_list(run)} for run in (first, second)]
    names = [*figures[0], *(name for name in figures[1] if name not in figures[0])]
    context = {
        "title": f"{first.study.name} and {second.study.name}",
        "runs": [first, second],
        "labels": [name for name in compared.names],
        "compared": compared,
        "ladders": list(zip(*ladders, strict=True)),
        "figures": [(next(f[n]["title"] for f in figures if n in f), [f.get(n) for f in figures]) for n in names],
        "models": [origin.model_table(run) for run in (first, second)],
        "software": [origin.software_table(run) for run in (first, second)],
        "commands": [origin.command(run.study) for run in (first, second)],
        "csp_more": {},
    }
    text = render("compare.html", context)
    provenance.write_text(out, text)
    return {
        "report": str(out),
        "bytes": len(text.encode()),
        "runs": [
            {"folder": str(run.folder), "missing": run.missing, "rungs": [r.to_dict() for r in rungs]}
            for run, rungs in zip((first, second), ladders, strict=True)
        ],
        "numbers": [row.to_dict() for row in compared.numbers],
    }


def report_context(run: Record) -> dict[str, Any]:
    """Everything the template shows, the ladder apart."""
    kind = kind_of(run)
    tokens, csp = kind.tokens(run)
    return {
        "title": run.study.name,
        "run": run,
        "study": run.study,
        "words": kind.words,
        "lead": kind.lead(run),
        "facts": kind.facts(run),
        "tables": kind.tables(run),
        "examples": kind.examples(run),
        "findings": kind.findings(run),
        "controls": kind.controls(run),
        "figures": figure_list(run),
        "tokens": tokens,
        "models": origin.model_table(run),
        "software": origin.software_table(run),
        "seconds": origin.seconds_table(run),
        "command": origin.command(run.study),
        "csp_more": csp,
    }


def figure_list(run: Record) -> list[dict[str, Any]]:
    """The run's figures as data URIs, known ones first, each with title and caption."""
    found, titles = run.figures(), kind_of(run).figures
    known = {n: _titled(n, key, titles[key]) for key in titles for n in found if _is_known(n, key)}
    names = [*known, *(n for n in found if n not in known)]
    return [
        {
            "name": name,
            "key": f"figure-{place}",
            "title": known.get(name, name.replace("_", " ")),
            "known": name in known,
            "uri": Markup("data:image/png;base64,") + base64.b64encode(found[name][0].read_bytes()).decode("ascii"),
            "caption": found[name][1],
        }
        for place, name in enumerate(names, 1)
    ]


def _titled(name: str, key: str, title: str) -> str:
    """The title of a known figure; those that share one are told apart by the rest of their names."""
    rest = name.removeprefix(key).replace("_", " ")
    return title + (f" ({rest})" if rest else "")


def _is_known(name: str, key: str) -> bool:
    return name.startswith(key) if key.endswith("_") else name == key


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template. Every text is escaped and freed of hidden characters; only markup made here is not."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_final,
    )
    environment.filters |= {"number": number, "mark": mark, "told": origin.told}
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    more = context.get("csp_more") or {}
    page = {
        "css": Markup(css),
        "js": Markup(js),
        "csp": policy(css, js, more.get("style-src", ""), more.get("script-src", "")),
        "version": version("verdictscope"),
    }
    return environment.get_template(template).render(**context, **page)


def _final(value: Any) -> Any:
    return visible(clip(value, LONGEST)) if isinstance(value, str) and not isinstance(value, Markup) else value


def policy(css: str, js: str, more_css: str = "", more_js: str = "") -> str:
    """The content security policy: this style, this script, embedded images, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(css)} {more_css}".rstrip()
        + f"; script-src {_hash(js)} {more_js}".rstrip()
        + "; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
