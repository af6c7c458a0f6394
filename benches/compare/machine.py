"""Processes, ports and what /proc says of them. Linux only.

Every process that is started here is stopped by its id, whatever happens: `Processes` is a context manager.
"""

import os
import signal
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failure(Exception):
    """Something that ends the run, with what to do about it."""


_given = set()


def free_port():
    """A TCP port of loopback that nobody listens on at this moment, and another each time: its listener may be yet to come."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def listens(port):
    """Whether somebody accepts connections on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition, what, seconds=15.0):
    """Waits until the condition holds; fails with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def _stat(pid):
    """The fields of /proc/PID/stat behind the name, or nothing if the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _birth(pid):
    """When a process was started, which tells it from a later one of the same id."""
    fields = _stat(pid)
    return fields and fields[19]


def family(pid):
    """A process and all that descend from it: servers have a master and workers."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(name)):
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def cpu_seconds(pid):
    """User and system time of a process and its descendants."""
    ticks = 0
    for one in family(pid):
        if fields := _stat(one):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICK


def rss_kib(pid):
    """Resident memory of a process and its descendants; what they share is counted in each."""
    pages = 0
    for one in family(pid):
        if fields := _stat(one):
            pages += int(fields[21])
    return pages * PAGE // 1024


class Processes:
    """What a run has started, stopped in reverse order at its end."""

    def __init__(self, logs):
        self.logs = logs
        self.running = []
        os.makedirs(logs, exist_ok=True)

    def __enter__(self):
        # Whoever ends a run by a signal leaves nothing behind, either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_):
        for process in reversed(list(self.running)):
            self.stop(process)

    def start(self, name, command, env=None, cpus=None):
        """Starts a program, its output in a file of that name; on these CPUs only, if they are given."""
        command = [str(part) for part in command]
        if cpus is not None:
            command = ["taskset", "-c", cpus] + command
        path = os.path.join(self.logs, f"{name}.log")
        with open(path, "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
            )
        process.log = path
        self.running.append(process)
        return process

    def check(self):
        """Fails if one of them has ended by itself."""
        for process in self.running:
            if process.poll() is not None:
                raise Failure(f"{process.args[0]} has ended ({process.returncode}), see {process.log}")

    def stop(self, process):
        """Ends a process and waits for it; the family of one that does not go is killed."""
        if process in self.running:
            self.running.remove(process)
        if process.poll() is not None:
            return
        births = {pid: _birth(pid) for pid in family(process.pid)}
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        # Workers that outlive their master.
        for pid, birth in births.items():
            if birth and _birth(pid) == birth:
                os.kill(pid, signal.SIGKILL)
