"""Draws a report as an SVG for light and dark pages. Knows the report's form, and no library."""

from html import escape
from typing import Any

from contenders import OPEN, SCOPED_FLOOR

WIDTH, LEFT, RIGHT, ROW, TOP, FOOT = 800, 250, 190, 30, 64, 74
BAR = 18
NAMESPACE = "http://www.w3.org/2000/svg"
STYLE = """
text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.ours { font-weight: 600 }
rect { fill: #8c959f }
rect.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  rect { fill: #656c76 }
  rect.ours { fill: #4493f8 }
}
"""


def draw(report: dict[str, Any]) -> str:
    """Requests a second of every contender with one worker, the most first."""
    workers, rows = next(iter(report["http"].items()))
    shown = [(name, row) for name, row in rows.items() if name != SCOPED_FLOOR]
    ranked = sorted(shown, key=lambda row: -row[1]["per_second"])
    most = ranked[0][1]["per_second"]
    height = TOP + ROW * len(ranked) + FOOT
    box = f'viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="{NAMESPACE}" width="{WIDTH}" height="{height}" role="img" {box}>',
        f"<title>{escape(summary(ranked))}</title>",
        f"<style>{STYLE}</style>",
        text(12, 26, "title", "Requests per second through one protected route"),
        text(12, 46, "small", f"uvicorn, {workers} worker; more is better"),
    ]
    for number, (name, row) in enumerate(ranked):
        y = TOP + ROW * number
        ours = "ours" if name.startswith("keylatch") else ""
        share = row["per_second"] / most
        width = max(1.0, share * (WIDTH - LEFT - RIGHT))
        base = y + BAR - 4
        lines += [
            text(LEFT - 10, base, ours, name, anchor="end"),
            f'<rect class="{ours}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            text(LEFT + width + 8, base, ours, label(name, row)),
        ]
    for number, line in enumerate(footnotes(report)):
        lines.append(text(12, height - FOOT + 22 + 16 * number, "small", line))
    return "\n".join([*lines, "</svg>", ""])


def label(name: str, row: dict[str, float]) -> str:
    """A figure, its share of the open route, and how much of it was no answer that was wanted."""
    rate = row["per_second"]
    figure = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    digits = 0 if row["to_open"] >= 0.1 else 1 if row["to_open"] >= 0.001 else 2
    share = "" if name == OPEN else f" ({row['to_open']:.{digits}%} of open)"
    refused = row["refused"] / max(1, row["passed"] + row["refused"])
    return figure + share + (f", {refused:.0%} failed" if refused >= 0.005 else "")


def footnotes(report: dict[str, Any]) -> list[str]:
    """With what and where it was measured."""
    facts, load = report["environment"], report["load"]
    packages = facts["packages"]
    named = ", ".join(f"{name} {packages[name]}" for name in ("fastapi", "uvicorn"))
    turns = f"{load['connections']} connections, {load['rounds']} turns of {load['seconds']:g} s"
    few = max(1, load["connections"] // 8)
    sqlite = "SQLite, write-ahead log" if load["wal"] else "SQLite, default journal"
    return [
        f"{facts['cpu']}, {facts['cores']} cores; {facts['python']}, {named}; {sqlite}",
        f"{facts['date'][:10]}; load: {load['generator']}, {turns}",
        f"({few} connections for those that answer a few requests a second)",
    ]


def summary(ranked: list[tuple[str, dict[str, float]]]) -> str:
    """The chart in words, for those who do not see it."""
    rows = "; ".join(f"{name}: {row['per_second']:,.0f}" for name, row in ranked)
    return f"Requests per second. {rows}"


def text(x: float, y: float, kind: str, line: str, anchor: str = "start") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(line)}</text>'
