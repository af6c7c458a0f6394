"""What is measured: the rows of the table, each with its load, its reference, its bar and what lies beyond."""

from dataclasses import dataclass, field

CHAINS = ("opencmg", "bare", "stripped", "nginx-two-hop", "envoy-tunnel", "haproxy-two-hop")
EDGES = ("opencmg", "bare", "stripped", "envoy-edge", "nginx-edge", "haproxy-two-hop")


@dataclass(frozen=True)
class Bar:
    """At most so many times the figure of another candidate; of none, so much at most. Without a bar it is only told."""

    reference: str
    bar: float | None = None
    beyond: float = 0.0


@dataclass(frozen=True)
class Row:
    """One load, and what is expected of the first candidate under it."""

    name: str
    title: str
    candidates: tuple
    load: dict = field(default_factory=dict)
    bars: tuple = ()
    # "cpu" (µs a request), "idle" (KiB a connection) or "reload" (failures).
    figure: str = "cpu"
    # How often the backend counts one request.
    counted: int = 1
    rsa: bool = False
    post_quantum: bool = False


def get(name, title, file, connections, *bars):
    return Row(name, title, CHAINS, {"file": file, "connections": connections}, bars)


def handshake(name, title, *bars, mode="handshake", **fields):
    load = {"file": "1k", "connections": 16, "mode": mode, **fields.pop("load", {})}
    return Row(name, title, EDGES, load, bars, **fields)


ROWS = (
    get("get-1k", "1 KiB GET, 64 connections", "1k", 64, Bar("nginx-two-hop", 0.75, 0.60)),
    get("get-100k", "100 KiB GET, 32", "100k", 32, Bar("envoy-tunnel", 0.65, 0.55)),
    get("get-10m", "10 MiB GET, 4", "10m", 4, Bar("envoy-tunnel", 1.0, 0.85)),
    Row(
        "post-64k",
        "64 KiB POST, 32",
        CHAINS,
        {"file": "upload", "connections": 32, "method": "POST", "body": 64 << 10},
        (Bar("envoy-tunnel", 0.75, 0.60),),
        counted=2,
    ),
    # Before full handshakes, whose clients never come again: a memory of sessions that is full would make the one dearer and
    # the other smaller.
    handshake("resumed", "resumed handshake + request", Bar("envoy-edge", 0.75, 0.55), mode="resumed"),
    # HAProxy cannot hold so many within the descriptors that a process usually has.
    Row("idle", "idle mTLS connection, KiB", EDGES[:-1], {"mode": "idle"}, (Bar("", 24, 16),), figure="idle"),
    handshake(
        "handshake",
        "full EC mTLS handshake + request",
        Bar("envoy-edge", 0.9, 0.75),
        Bar("nginx-edge", 0.3),
    ),
    handshake("handshake-rsa", "RSA-2048 mTLS handshake + request", Bar("envoy-edge", 0.8, 0.65), rsa=True),
    handshake(
        "handshake-pq",
        "X25519MLKEM768 mTLS handshake + request",
        post_quantum=True,
        load={"tls_group": "x25519mlkem768"},
    ),
    Row(
        "reload",
        "failures in 4 reloads, 64 connections",
        ("opencmg", "nginx-two-hop", "haproxy-two-hop"),
        {"file": "1k", "connections": 64},
        (Bar("", 0),),
        figure="reload",
    ),
)
# The tail of the first row against the same reference.
P99 = Bar("nginx-two-hop", 1.0, 0.8)
# What everything together may cost beside the bare chain; and beside the stripped one, from which it differs in features alone.
EVERYTHING = (Bar("bare", 1.10), Bar("stripped"))
