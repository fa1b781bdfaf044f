"""The devices of a bench as their broker sees them: MQTT 3.1.1 over TLS with a certificate each, all in one process of their own.

The load shares the cores with what it measures, so it does as little as it can: messages are signed beforehand, packets are written and cut by hand, and what
came back is only looked at when all is over.

Two ways to send: at fixed times, whatever became of the messages before (an open loop: latency counts from the planned time, so that a stall is charged to
every message that it delayed), or so many ahead of their answers.
"""

import gc
import pickle
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STARTED_S = 30.0
#: Nothing for so long, and the rest is given up: longer than any answer takes that is not lost.
SILENT_S = 15.0
_READ = 65_536
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_QOS_1 = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSeat:
    """One device's connection: topics below ``farthing/<name>/``, and the files of its transport key."""

    name: str
    ca_file: Path
    certificate_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: message n by device n modulo their number, to ``farthing/<device>/<topic>``.

    With ``rate_per_s`` at fixed times; else ``ahead`` of their answers (or PUBACKs, where nothing ``answers``), and as fast as that goes.
    """

    port: int
    seats: Sequence[DeviceSeat]
    messages: Sequence[bytes]
    topic: str = "up"
    rate_per_s: int | None = None
    ahead: int | None = None
    answers: bool = True


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What was measured; times are seconds of the monotonic clock."""

    #: Planned time of sending of message n (in the open loop), or when it was handed to its socket.
    due_s: list[float] = field(default_factory=list)
    #: (when it was read, number of the device, the answer), in the order in which they came.
    answers: list[tuple[float, int, bytes]] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float = 0.0
    #: Processor of the load itself.
    cpu_s: float = 0.0
    #: How late the load itself sent, the longest: what it adds to a latency.
    behind_s: float = 0.0


class _Device:
    """One connection, written and cut by hand."""

    def __init__(self, seat: DeviceSeat, number: int, port: int, topic: str) -> None:
        self.number = number
        context = ssl.create_default_context(cafile=str(seat.ca_file))
        context.load_cert_chain(str(seat.certificate_file), str(seat.key_file))
        raw = socket.create_connection(("127.0.0.1", port), timeout=STARTED_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self._ahead = b""
        self._behind = b""
        self._mid = 0
        self._topic = _text(f"farthing/{seat.name}/{topic}")
        client = _text(seat.name)
        self._ask(_packet(_CONNECT, _text("MQTT") + b"\x04\x02\x00\x00" + client), _CONNACK)
        self._ask(_packet(_SUBSCRIBE, b"\x00\x01" + _text(f"farthing/{seat.name}/down") + b"\x01"), _SUBACK)
        self.socket.setblocking(False)

    def _ask(self, packet: bytes, expected: int) -> None:
        self.socket.sendall(packet)
        answer = self.socket.recv(16)
        if not answer or answer[0] != expected or answer[-1] > 1:
            raise RuntimeError(f"the broker said {answer.hex()} to a packet {packet[0]:#x}")

    def publish(self, message: bytes) -> None:
        """QoS 1."""
        self._mid = self._mid % 0xFFFF + 1
        self._write(_packet(_PUBLISH | _QOS_1, self._topic + self._mid.to_bytes(2, "big") + message))

    def _write(self, data: bytes) -> None:
        self._behind += data
        self.flush()

    def flush(self) -> bool:
        """Whether nothing waits to be written."""
        while self._behind:
            try:
                self._behind = self._behind[self.socket.send(self._behind) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                return False
        return True

    def read(self) -> tuple[list[bytes], int]:
        """What was said to it (it is acknowledged); and how many of its own were acknowledged."""
        data = self._ahead
        while True:
            try:
                piece = self.socket.recv(_READ)
            except (ssl.SSLWantReadError, BlockingIOError):
                break
            if not piece:
                raise RuntimeError("the broker closed a device's connection")
            data += piece
        heard, acknowledged, reply, at = [], 0, b"", 0
        while at + 2 <= len(data):
            size, shift, start = 0, 0, at + 1
            while True:
                if start >= len(data):
                    size = len(data)  # the head is not whole
                    break
                size |= (data[start] & 0x7F) << shift
                shift += 7
                start += 1
                if not data[start - 1] & 0x80:
                    break
            end = start + size
            if end > len(data):
                break
            kind = data[at] & 0xF0
            if kind == _PUBLISH:
                body = start + 2 + int.from_bytes(data[start : start + 2], "big")
                if data[at] & _QOS_1:
                    reply += b"\x40\x02" + data[body : body + 2]
                    body += 2
                heard.append(data[body:end])
            elif kind == _PUBACK:
                acknowledged += 1
            at = end
        self._ahead = data[at:]
        if reply:
            self._write(reply)
        return heard, acknowledged


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _packet(head: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        size, low = divmod(size, 128)
        length += bytes((low | (0x80 if size else 0),))
        if not size:
            return bytes((head,)) + length + body


class _Run:
    """All devices, and the one loop over them."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._devices = [_Device(seat, n, load.port, load.topic) for n, seat in enumerate(load.seats)]
        self._of = {each.socket.fileno(): each for each in self._devices}
        self.outcome = Outcome()
        self._acknowledged = 0

    def run(self) -> Outcome:
        outcome = self.outcome
        # Nothing here makes cycles, and a collection would be charged to who waits.
        gc.disable()
        used_s = time.process_time()
        outcome.began_s = time.monotonic() + 0.05
        if self._load.rate_per_s is not None:
            self._at_fixed_times(self._load.rate_per_s)
        else:
            self._ahead(self._load.ahead or 1)
        outcome.ended_s = time.monotonic()
        outcome.cpu_s = time.process_time() - used_s
        return outcome

    def _done(self) -> int:
        return len(self.outcome.answers) if self._load.answers else self._acknowledged

    def _at_fixed_times(self, rate_per_s: int) -> None:
        outcome, messages, devices = self.outcome, self._load.messages, self._devices
        total, sent = len(messages), 0
        due_s = outcome.due_s = [outcome.began_s + n / rate_per_s for n in range(total)]
        heard_s = outcome.began_s
        while self._done() < total:
            now_s = time.monotonic()
            while sent < total and due_s[sent] <= now_s:
                outcome.behind_s = max(outcome.behind_s, now_s - due_s[sent])
                devices[sent % len(devices)].publish(messages[sent])
                sent += 1
                now_s = time.monotonic()
            wait_s = max(0.0, due_s[sent] - now_s) if sent < total else SILENT_S
            if self._hear(wait_s) or sent < total:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s >= SILENT_S:
                return

    def _ahead(self, ahead: int) -> None:
        outcome, messages, devices = self.outcome, self._load.messages, self._devices
        total, sent = len(messages), 0
        outcome.began_s = time.monotonic()
        while self._done() < total:
            for _ in range(min(total - sent, self._done() + ahead - sent)):
                outcome.due_s.append(time.monotonic())
                devices[sent % len(devices)].publish(messages[sent])
                sent += 1
            if not self._hear(SILENT_S):
                return

    def _hear(self, wait_s: float) -> bool:
        """Read what there is, after at most ``wait_s`` without anything; whether there was."""
        devices = self._devices
        full = [each.socket for each in devices if not each.flush()]
        # select, not epoll: it waits to the microsecond, and devices are few.
        readable, _, _ = select.select([each.socket for each in devices], full, (), wait_s)
        answers = self.outcome.answers
        for each in readable:
            device = self._of[each.fileno()]
            heard, acknowledged = device.read()
            self._acknowledged += acknowledged
            at_s = time.monotonic()
            answers += [(at_s, device.number, message) for message in heard]
        return bool(readable)


def send(load: Load) -> Outcome:
    """Run ``load`` in a process of its own, and wait for it. Blocking."""
    with tempfile.TemporaryDirectory(prefix="farthing-bench-load-") as folder:
        order, outcome = Path(folder) / "order", Path(folder) / "outcome"
        # Between two processes of this bench, in a folder that only they know.
        order.write_bytes(pickle.dumps(load))
        subprocess.run([sys.executable, "-m", "bench.devices", str(order), str(outcome)], check=True)
        measured: Outcome = pickle.loads(outcome.read_bytes())
        return measured


if __name__ == "__main__":
    # By its full name: what was pickled elsewhere is of that module, not of this one's __main__.
    from bench import devices as _named

    _outcome = _named._Run(pickle.loads(Path(sys.argv[1]).read_bytes())).run()  # noqa: SLF001 its own
    Path(sys.argv[2]).write_bytes(pickle.dumps(_outcome))
