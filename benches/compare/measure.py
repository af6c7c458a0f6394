"""One figure at a time: a candidate under a load for some seconds, and what its processes cost meanwhile."""

import time

import load
from machine import Failure

# The clients dial and the caches fill before anything is counted.
WARM_UP = 0.6
RELOADS = 4
# A connection that has just been used is not idle yet, and allocators take their time to give back.
IDLE_FOR = 15


def cost(world, candidate, row, **changes):
    """CPU µs a request of every part, over a window inside the load; requests are counted by the backend."""
    seconds = world.settings.seconds
    warm_up = min(WARM_UP, seconds)
    arguments = load.command(world, candidate, row, seconds + 0.3, warm_up, **changes)
    with load.Running(world, arguments) as running:
        time.sleep(warm_up + 0.1)
        before, count, start = candidate.cpu(), world.backend.requests(), time.monotonic()
        time.sleep(seconds)
        after, end = candidate.cpu(), time.monotonic()
        count = (world.backend.requests() - count) / row.counted
        result = running.finish(60)
    if count < 1:
        raise Failure(f"{candidate.name} passed on nothing: {result.why}")
    parts = {name: (after[name] - before[name]) / count * 1e6 for name in after}
    return {
        "value": sum(parts.values()),
        "parts": parts,
        "per_second": count / (end - start),
        "p50_us": result.p50,
        "p99_us": result.p99,
        "failures": result.failures,
        "why": result.why,
    }


def idle(world, candidate, row):
    """KiB of the edge for each idle connection, of a process that has just been started."""
    connections = world.settings.idle
    candidate.stop()
    candidate.start()
    for _ in range(20):
        candidate.ask("1k")
    before = candidate.rss()
    arguments = load.command(world, candidate, row, 600, 0, connections=connections)
    with load.Running(world, arguments) as running:
        running.wait_holding()
        time.sleep(IDLE_FOR)
        held = candidate.rss()
    candidate.stop()
    candidate.start()
    return {"value": (held - before) / connections, "parts": {}, "connections": connections}


def reload(world, candidate, row):
    """Requests that failed while the configuration was taken over four times under load."""
    seconds = max(world.settings.seconds, 2.0)
    arguments = load.command(world, candidate, row, seconds, 0.2)
    with load.Running(world, arguments) as running:
        for _ in range(RELOADS):
            time.sleep(seconds / (RELOADS + 1))
            candidate.reload()
        result = running.finish(60)
    candidate.stop()
    candidate.start()
    return {"value": result.failures, "parts": {}, "requests": result.requests, "why": result.why}


FIGURES = {"cpu": cost, "idle": idle, "reload": reload}
