"""The tables and the JSON of a run."""

import json
import os
import platform
import shlex
import sys
import time

from rows import EVERYTHING, P99, ROWS

DASH = "–"


def number(value):
    """Three digits that matter."""
    if value is None:
        return DASH
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def ratio(a, b):
    return f"{a / b:.2f}×" if a is not None and b else DASH


def percent(part):
    return DASH if part is None else f"{part:.0%}"


def table(head, lines):
    """A Markdown table, its columns aligned so that it reads as text, too."""
    rows = [head, *lines]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    out = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    out.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(out)


class Verdicts:
    """What the bars say of the first candidate."""

    def __init__(self, rounds, ours="opencmg"):
        self.rounds = rounds
        self.ours = ours
        self.lines = []

    def add(self, title, row, bar, key="value", unit=""):
        """Adds a line if both sides were measured."""
        ours = self.rounds.median(row, self.ours, key)
        reference = self.rounds.median(row, bar.reference, key) if bar.reference else 1.0
        if ours is None or reference is None:
            return
        found = ours / reference if bar.reference else ours
        verdict = DASH
        if bar.bar is not None:
            verdict = "beyond" if bar.beyond and found <= bar.beyond else "met" if found <= bar.bar else "missed"
        times = f"× {bar.reference}" if bar.reference else unit
        beyond = f"≤ {bar.beyond:g}" if bar.beyond else DASH
        limit = times if bar.bar is None else f"≤ {bar.bar:g} {times}".strip()
        self.lines.append([title, limit, beyond, f"{found:.2f}", verdict])


def verdicts(rounds):
    out = Verdicts(rounds)
    for row in ROWS:
        for bar in row.bars:
            out.add(row.title, row.name, bar)
        if row.name == "get-1k":
            out.add("p99 at " + row.title, row.name, P99, "p99_us")
    for row in ROWS:
        if row.figure == "cpu":
            for bar in EVERYTHING:
                out.add("with everything: " + row.title, row.name, bar)
    return table(["expected", "bar", "beyond", "found", "verdict"], out.lines) if out.lines else ""


def best_peer(rounds, row):
    """The cheapest of those that are not ours."""
    costs = {
        candidate.name: rounds.median(row, candidate.name)
        for candidate in rounds.candidates
        if candidate.name not in ("opencmg", "bare", "stripped") and candidate.name in rounds.figures.get(row, {})
    }
    return min(costs.values(), default=None)


def figures(rounds, pair):
    lines = []
    for row in ROWS:
        if row.name not in rounds.figures:
            continue
        peer = rounds.median(row.name, rounds.candidates[0].name) if pair else best_peer(rounds, row.name)
        for candidate in rounds.candidates:
            if candidate.name not in rounds.figures[row.name]:
                continue
            median = lambda key: rounds.median(row.name, candidate.name, key)  # noqa: E731
            parts = " + ".join(f"{name} {number(cost)}" for name, cost in rounds.parts(row.name, candidate.name).items())
            lines.append([
                row.title, candidate.name, number(median("value")), parts or DASH,
                ratio(median("value"), peer) if row.figure != "reload" else DASH,
                percent(rounds.spread(row.name, candidate.name)),
                number(median("per_second")), number(median("p50_us")), number(median("p99_us")),
                str(rounds.total(row.name, candidate.name, "failures")) if row.figure == "cpu" else DASH,
            ])  # fmt: skip
    than = "× first" if pair else "× best peer"
    return table(["load", "candidate", "CPU µs a request", "of it", than, "spread", "requests/s", "p50 µs", "p99 µs", "failures"], lines)


def where(settings):
    """What the figures belong to."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    workers = f"{settings.workers} workers" if settings.workers else f"workers as shipped ({os.cpu_count()})"
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} × {model}, Linux {platform.release()}; clients, candidates and "
        f"backend share the machine; opencmg, bare and stripped: {workers}, the others one; medians of {settings.rounds} "
        f"interleaved rounds of {settings.seconds:g} s; load: {settings.tool}."
    )


def report(settings, rounds):
    """Prints the tables, writes the JSON; 1 if requests failed in a smoke run."""
    if settings.markdown:
        print(f"```sh\nbenches/compare/run {shlex.join(sys.argv[1:])}\n```\n")
    print(where(settings))
    if not settings.pair and (said := verdicts(rounds)):
        print(f"\n{said}")
    print(f"\n{figures(rounds, settings.pair)}")
    path = os.path.join(settings.folder, "pair.json" if settings.pair else "figures.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"where": where(settings), "figures": rounds.figures}, file, indent=1)
    failed = sum(rounds.total(row, name, "failures") for row, names in rounds.figures.items() for name in names)
    return 1 if settings.smoke and failed else 0
