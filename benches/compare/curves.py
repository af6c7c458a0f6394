"""What is varied, one thing at a time, and how each point of a curve is measured."""

import os
import statistics
import sys
import time
from dataclasses import dataclass

import load
import measure
from machine import free_port, listens, rss_kib, wait_until
from opencmg import WAIT, Bare, OpenCmg, Shape
from rows import ROWS

GET = ROWS[0]
# How many work while the polls wait.
BUSY = 200


@dataclass(frozen=True)
class Curve:
    """One figure against one number."""

    name: str
    title: str
    values: tuple
    # What is flat is read off the ratio of the last to the first.
    flat: bool = True


CURVES = (
    Curve("connections", "client connections", (1, 8, 64, 512), flat=False),
    Curve("tunnels", "tunnels of a connection point", (1, 2, 4)),
    Curve("cores", "CPUs, as many workers", (1, 2), flat=False),
    Curve("endpoints", "published endpoints", (1, 100, 10_000)),
    Curve("points", "connection points", (1, 4, 16)),
)


class Measured:
    """The points of one curve, by series: each value has the figures of every round."""

    def __init__(self, curve):
        self.curve = curve
        self.series = {}

    def add(self, series, value, figure):
        self.series.setdefault(series, {}).setdefault(value, []).append(figure)

    def medians(self, series, key="value"):
        return {value: statistics.median(f[key] for f in found) for value, found in self.series[series].items()}


def candidate(world, curve, value, kind):
    """The chain of one point of a curve, not started."""
    if kind == "bare":
        made = Bare(world)
        if curve == "tunnels":
            made.tunnels = value
        return made
    shapes = {
        "tunnels": lambda: Shape(tunnels=value),
        "endpoints": lambda: Shape(endpoints=value),
        "points": lambda: Shape(points=value),
    }
    return OpenCmg(world, shape=shapes.get(curve, Shape)())


def kinds(curve):
    """The bare chain has neither endpoints nor several points."""
    return ("opencmg",) if curve in ("endpoints", "points") else ("opencmg", "bare")


def draw(world, curve, rounds):
    """Measures a curve: the values in turn, each on a fresh chain, several rounds of that."""
    settings, measured = world.settings, Measured(curve)
    for number in range(rounds):
        for value in curve.values:
            if curve.name == "cores" and value > os.cpu_count():
                continue
            for kind in kinds(curve.name):
                if curve.name == "cores":
                    settings.workers, settings.cpus = value, ",".join(map(str, range(value)))
                chain = candidate(world, curve.name, value, kind)
                chain.strict = settings.tool != "wrk"
                try:
                    chain.start()
                    connections = value if curve.name == "connections" else GET.load["connections"]
                    figure = measure.cost(world, chain, GET, connections=connections)
                finally:
                    settings.workers = settings.cpus = None
                    chain.stop()
                measured.add(kind, value, figure)
                if kind == "opencmg":
                    measured.add("gateway", value, {**figure, "value": figure["parts"]["edge"]})
                print(f"{curve.name:12} {number + 1} {value:6} {kind:8} {figure['value']:8.1f}", file=sys.stderr)
    return measured


def polls(world, count, rounds):
    """The tail of those who work, without and with so many who wait, and what each of these costs in memory."""
    port = free_port()
    holder = world.processes.start("holder", [sys.executable, os.path.join(os.path.dirname(__file__), "holder.py"), port])
    wait_until(lambda: listens(port), "the backend of the polls")
    out = {"waiting": count, "without": [], "with": [], "kib": []}
    for number in range(rounds):
        chain = OpenCmg(world, shape=Shape(wait=port))
        try:
            chain.start()
            out["without"].append(measure.cost(world, chain, GET, connections=BUSY))
            before = {name: rss_kib(part.pid) for name, part in chain.parts.items()}
            path = f"/CCM_Proxy_MutualAuth/{WAIT}/wait"
            arguments = load.command(world, chain, GET, 600, 0, mode="poll", connections=count, path=path)
            with load.Running(world, arguments) as running:
                running.wait_holding()
                time.sleep(1)
                held = {name: (rss_kib(part.pid) - before[name]) / count for name, part in chain.parts.items()}
                out["kib"].append(held)
                out["with"].append(measure.cost(world, chain, GET, connections=BUSY))
        finally:
            chain.stop()
        print(f"polls        {number + 1} {count:6} {held}", file=sys.stderr)
    world.processes.stop(holder)
    return out


def tail(polled):
    """p99 in µs without and with the polls, their ratio, and KiB of a poll at either end."""
    without, with_them = (statistics.median(f["p99_us"] for f in polled[key]) for key in ("without", "with"))
    kib = {name: statistics.median(held[name] for held in polled["kib"]) for name in polled["kib"][0]}
    return without, with_them, with_them / without, kib
