"""The load generators: `opencmg load`, which shows client certificates, and wrk for a second opinion on plain rows."""

import json
import re
import subprocess
from dataclasses import dataclass, field

from machine import Failure
from pki import HOST, RSA_HOST


@dataclass
class Result:
    """What the clients saw."""

    requests: int = 0
    failures: int = 0
    why: dict = field(default_factory=dict)
    per_second: float = 0.0
    p50: float = 0.0
    p99: float = 0.0


def command(world, candidate, row, seconds, warm_up, **changes):
    """The command line of one load on one candidate."""
    load = {"mode": "keep-alive", **row.load, **changes}
    if world.settings.tool == "wrk":
        return _wrk(world, candidate, load, seconds)
    host, kind = (RSA_HOST, "rsa") if row.rsa else (HOST, "ec")
    port = getattr(candidate, "rsa_port", candidate.port) if row.rsa else candidate.port
    certificate, key = world.pki.pair(f"{kind}-client")
    path = load.get("path") or candidate.path(load.get("file", "1k"))
    out = [
        world.settings.load, "load", f"https://{host}{path}",
        "--connect", f"127.0.0.1:{port}", "--ca", world.pki.path(f"{kind}-root.pem"),
        "--certificate", certificate, "--key", key, "--mode", load["mode"],
        "--connections", load["connections"], "--duration", f"{seconds * 1000:.0f}ms", "--warm-up", f"{warm_up * 1000:.0f}ms",
        "--tls-group", load.get("tls_group", "x25519"), "--threads", 1, "--json",
    ]  # fmt: skip
    if "method" in load:
        out += ["--method", load["method"]]
    if "body" in load:
        out += ["--body", f"{load['body']} B"]
    return [str(part) for part in out]


def _wrk(world, candidate, load, seconds):
    out = ["wrk", "-t1", f"-c{load['connections']}", f"-d{max(1, round(seconds))}s", "--latency", "-H", f"Host: {HOST}"]
    if load["mode"] == "handshake":
        out += ["-H", "Connection: close"]
    elif load["mode"] != "keep-alive":
        raise Failure(f"wrk cannot do {load['mode']}")
    if load.get("body"):
        script = f"wrk.method = 'POST'\nwrk.body = string.rep('x', {load['body']})\n"
        path = f"{world.folder}/post.lua"
        with open(path, "w", encoding="ascii") as file:
            file.write(script)
        out += ["-s", path]
    return [*out, f"https://127.0.0.1:{candidate.port}{candidate.path(load['file'])}"]


class Running:
    """A load under way."""

    def __init__(self, world, arguments):
        self.arguments = arguments
        cpus = world.settings.load_cpus
        if cpus is not None:
            arguments = ["taskset", "-c", cpus, *arguments]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_holding(self):
        """Waits until all connections or polls are held."""
        for line in self.process.stdout:
            if line.startswith("holding"):
                return
        raise Failure(f"the load ended early: {self.process.stderr.read()}")

    def finish(self, seconds):
        """Waits for the end and reads what was said."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"the load does not end: {' '.join(self.arguments)}") from error
        if self.arguments[0] == "wrk":
            return _read_wrk(out, err)
        try:
            said = json.loads(out[out.index("{") :])
        except ValueError as error:
            raise Failure(f"the load failed: {' '.join(self.arguments)}\n{out}{err}") from error
        return _read(said)


def _read(said):
    why = {name: count for name, count in said.get("failures", {}).items() if count}
    latency = said.get("latency_us") or {}
    return Result(
        said["requests"],
        sum(why.values()),
        why,
        said.get("requests_per_second") or 0.0,
        latency.get("p50") or 0.0,
        latency.get("p99") or 0.0,
    )


def _read_wrk(out, err):
    requests = re.search(r"(\d+) requests in", out)
    if not requests:
        raise Failure(f"wrk failed:\n{out}{err}")
    result = Result(int(requests[1]))
    result.per_second = float(re.search(r"Requests/sec:\s*([\d.]+)", out)[1])
    unit = {"us": 1.0, "ms": 1e3, "s": 1e6}
    for name, quantile in (("p50", 50), ("p99", 99)):
        if found := re.search(rf"{quantile}%\s+([\d.]+)(us|ms|s)", out):
            setattr(result, name, float(found[1]) * unit[found[2]])
    if found := re.search(r"Non-2xx or 3xx responses: (\d+)", out):
        result.why["status"] = int(found[1])
    if found := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out):
        result.why.update({k: int(v) for k, v in zip(("connect", "read", "write", "timeout"), found.groups()) if int(v)})
    result.failures = sum(result.why.values())
    return result
