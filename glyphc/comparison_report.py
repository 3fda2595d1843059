"""A comparison for people: aligned text, Markdown, or one page with plots that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import floor, log2, log10

from glyphc.comparison import Comparison, Measured, Result
from glyphc.slow import duration
from glyphc.text_tables import align

_HEADING = (
    "strategy", "result", "simulated", "encrypted", "error", "evaluate", "CPU", "time predicted", "client", "memory",
    "memory predicted", "keys", "up", "down", "trips",
)  # fmt: skip


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """The heading, then a row for each result."""
    return [_HEADING, *map(_row, found.results)]


def _row(r: Result) -> tuple[str, ...]:
    p, m = r.predicted, r.measured
    outcome = str(r.outcome)
    if p is None:
        return (str(r.choice), outcome, *[""] * (len(_HEADING) - 2))
    error = "" if m is None else _error(m)
    client = None if m is None else m.stage("encrypt") + m.stage("refresh") + m.stage("decrypt")
    return (
        str(r.choice),
        outcome,
        scores_text(r.simulated),
        "" if m is None else scores_text(m.scores),
        error,
        "" if m is None else _seconds(m.stage("evaluate")),
        "" if m is None else _seconds(m.cpu_seconds),
        _seconds(p.evaluate_seconds),
        "" if client is None else _seconds(client),
        "" if m is None else _bytes(m.memory_bytes),
        _bytes(p.memory_bytes),
        _bytes(p.key_bytes),
        _bytes(p.upload_bytes),
        _bytes(p.download_bytes),
        str(p.trips),
    )


def scores_text(scores: Sequence[tuple[str, float]]) -> str:
    """All figures of an output, as percent."""
    return ", ".join(f"{value:.2%}" + ("" if name == "accuracy" else f" {name}") for name, value in scores)


def table(found: Comparison) -> str:
    """Text with aligned columns, then reasons and who learns what."""
    lines = [
        f"{found.model}: {found.samples} samples; float network: {scores_text(found.floats)}; on {found.machine}",
        "",
        align(rows(found)),
        "",
        "error: rms, encrypted beside the program in the clear, of the outputs' range. evaluate: wall seconds of the",
        "server; CPU: the same on all cores; client: to encrypt and decrypt. memory: of both in one process;",
        "keys: what the server needs of the client.",
        "",
    ]
    lines += [f"{r.choice}: {text}" for r in found.results for text in _remarks(r)]
    lines += ["", "who learns what", *align_known(found)]
    return "\n".join(lines).rstrip()


_MARKDOWN = (
    "strategy", "accuracy (simulated)", "error", "evaluate s (predicted) / CPU s", "client s (predicted)", "trips",
    "peak GB (predicted)", "keys MB", "up MB", "down MB",
)  # fmt: skip


def markdown(found: Comparison) -> str:
    """A table of what was run, or predicted in brackets alone, and what it is of."""
    lines = ["| " + " | ".join(_MARKDOWN) + " |", "|" + " --- |" * len(_MARKDOWN)]
    lines += ["| " + " | ".join(_cells(r)) + " |" for r in found.results]
    security = ", ".join(dict.fromkeys(r.security for r in found.results if r.security))
    return (
        "\n".join(lines) + f"\n\n{found.model}, {found.samples} held-out samples, float network "
        f"{scores_text(found.floats)}; {found.machine}; {security}. error: rms beside the program in the clear, of the "
        "outputs' range; client: to encrypt, answer and decrypt; peak: both sides in one process."
    )


def _long(seconds: float) -> str:
    """Seconds, and of many the hours as well."""
    return f"{seconds:.1f}" if seconds < 7200 else f"{seconds:,.0f} = {duration(seconds)}"


def _cells(r: Result) -> tuple[str, ...]:
    p, m = r.predicted, r.measured
    if p is None:
        return (str(r.choice), str(r.outcome), *[""] * (len(_MARKDOWN) - 2))
    simulated = f"({scores_text(r.simulated)})"
    fixed = (f"{p.key_bytes / 1e6:,.1f}", f"{p.upload_bytes / 1e6:.1f}", f"{p.download_bytes / 1e6:.1f}")
    if m is None:
        seconds = (f"({_long(p.evaluate_seconds)}) {r.outcome}", f"({p.client_seconds:.1f})", str(p.trips))
        return (str(r.choice), simulated, "", *seconds, f"({p.memory_bytes / 1e9:.2f})", *fixed)
    client = m.stage("encrypt") + m.stage("refresh") + m.stage("decrypt")
    return (
        str(r.choice),
        f"{scores_text(m.scores)} {simulated}",
        _error(m),
        f"{m.stage('evaluate'):.1f} ({p.evaluate_seconds:.1f}) / {m.cpu_seconds:.1f}",
        f"{client:.1f} ({p.client_seconds:.1f})",
        str(p.trips),
        f"{m.memory_bytes / 1e9:.2f} ({p.memory_bytes / 1e9:.2f})",
        *fixed,
    )


def _error(m: Measured) -> str:
    return "exact" if m.exact else f"2^{log2(max(m.error, 2.0**-99)):.1f}"


def _remarks(r: Result) -> list[str]:
    return [text for text in (r.reason, *r.notes) if text]


def align_known(found: Comparison) -> list[str]:
    """Results by who learns what: a line for each kind."""
    kinds: dict[str, list[str]] = {}
    for r in found.results:
        if r.learns:
            kinds.setdefault(r.learns, []).append(str(r.choice))
    return [f"  {', '.join(names)}: {learns}" for learns, names in kinds.items()]


def _seconds(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


# -- a page --

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1e293b; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }
th:first-child, td:first-child, td:nth-child(2) { text-align: left; }
.scroll { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 2rem; margin: 1.5rem 0; }
svg text { font-size: 12px; fill: #334155; }
svg .grid { stroke: #e2e8f0; } svg .run { fill: #2f6fb5; } svg .predicted { fill: white; stroke: #2f6fb5; }
@media (prefers-color-scheme: dark) {
  body { background: #0f172a; color: #e2e8f0; } th, td { border-color: #334155; } svg text { fill: #cbd5e1; }
  svg .grid { stroke: #334155; } svg .predicted { fill: #0f172a; }
}
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 520, 330, 70, 40, 26, 130


def page(found: Comparison) -> str:
    """One HTML page: the table, plots of the first figure against time and traffic, remarks."""
    heading, *body = rows(found)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    remarks = "".join(
        f"<li><b>{escape(str(r.choice))}</b>: {escape(text)}</li>" for r in found.results for text in _remarks(r)
    )
    known = "".join(f"<li>{escape(line.strip())}</li>" for line in align_known(found))
    plots = [
        _plot(found, "seconds to evaluate", _evaluate),
        _plot(found, "megabytes up and down", _traffic),
    ]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(found.model)}: strategies</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(found.model)}: strategies side by side</h1>"
        f"<p>{found.samples} samples; float network: {escape(scores_text(found.floats))}; {escape(found.machine)}. "
        "Filled: encrypted and measured; hollow: simulated and predicted.</p>"
        f'<div class="plots">{"".join(plots)}</div>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        f"<h2>Remarks</h2><ul>{remarks}</ul><h2>Who learns what</h2><ul>{known}</ul></body></html>\n"
    )


def _evaluate(r: Result) -> float:
    assert r.predicted is not None
    return r.measured.stage("evaluate") if r.measured is not None else r.predicted.evaluate_seconds


def _traffic(r: Result) -> float:
    assert r.predicted is not None
    return (r.predicted.upload_bytes + r.predicted.download_bytes) / 1e6


def _plot(found: Comparison, label: str, x: Callable[[Result], float]) -> str:
    """The first figure against x, whose axis is logarithmic."""
    shown = [r for r in found.results if r.predicted is not None and r.scores]
    if not shown:
        return ""
    xs, ys = [max(x(r), 1e-3) for r in shown], [r.scores[0][1] for r in shown]
    first, last = floor(log10(min(xs))), floor(log10(max(xs))) + 1
    room = (max(ys) - min(ys)) * 0.1 or 0.01
    low, high = min(ys) - room, max(ys) + room

    def at(value: float) -> float:
        return _LEFT + (log10(value) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for power in range(first, last + 1):
        place, text = at(10.0**power), f"{10.0**power:g}"
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{text}</text>')
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.1%}</text>')
    taken: list[tuple[float, float]] = []
    for r, a, b in zip(shown, xs, ys, strict=True):
        kind = "run" if r.measured is not None else "predicted"
        place, height = at(a), up(b)
        line = height
        while any(abs(line - other) < 12 and abs(place - p) < 120 for p, other in taken):
            line += 12
        taken.append((place, line))
        name = escape(str(r.choice))
        parts.append(f'<circle class="{kind}" cx="{place:.1f}" cy="{height:.1f}" r="5"><title>{name}</title></circle>')
        parts.append(f'<text x="{place + 9:.1f}" y="{line + 4:.1f}">{name}</text>')
    name = escape(shown[0].scores[0][0])
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>')
    parts.append(f'<text x="4" y="{_TOP - 14}">{name}</text>')
    what = f'role="img" aria-label="{name} against {escape(label)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
    return f"<svg {what}>{''.join(parts)}</svg>"
