"""A fake Otii server on a loopback socket, with an instrument that plays a signal.

It uses the JSON protocol of ``otii_tcp_client`` 1.0 (``otii_connection.py``, ``arc.py``, ``project.py``,
``recording.py``): a greeting when a client connects, then one answer with the same ``trans_id`` for every request;
lines end with CRLF.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from deepen.testing.instruments.signal import PowerSignal

__all__ = ["OtiiServer"]

CURRENT_HZ, VOLTAGE_HZ = 4000, 1000


class OtiiServer:
    """A server with instruments; a context manager.

    Attributes:
        port: Its port on 127.0.0.1.
        commands: Every (command, data) received.
        state: Settings of the instrument.
        delay_s: Time between the request to start recording and its start.
        missing: Share of a recording's end that is missing.
        refuse: Command -> message of the error to answer with.
        hole: Range of samples (start, stop) of the current that are not numbers.
    """

    def __init__(
        self,
        signal: PowerSignal,
        *,
        devices: tuple[tuple[str, str, str], ...] = (("Simulator1", "Bench", "Simulator"),),
        volts: float = 0.0,
        licensed: bool = True,
        logged_in: bool = True,
        edges: dict[str, list[tuple[float, bool]]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a server; it listens from ``__enter__`` on.

        Args:
            signal: Power of the load, watts over true time.
            devices: (id, name, type) of the instruments.
            volts: Initial output voltage, volts; 0 is off.
            licensed: True if a licence can be reserved.
            logged_in: True if a user is logged in.
            edges: Changes (seconds of the recording, level) of the digital inputs, by channel.
            now: True time.
        """
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.state: dict[str, Any] = {"voltage": volts or 3.3, "main": volts > 0, "max_current": 5.0, "channels": {}}
        self.delay_s = 0.01
        self.missing = 0.0
        self.refuse: dict[str, str] = {}
        self.hole = (0, 0)
        self._signal = signal
        self._devices = devices
        self._licensed = licensed
        self._logged_in = logged_in
        self._edges = edges or {}
        self._now = now
        self._start_s = self._end_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> OtiiServer:
        """Start listening."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join()

    def hang_up(self) -> None:
        """Close the connection of the client."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):  # the client has disconnected
                client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._client = client
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        greeting = {"otii_version": "3.5.5", "protocol_version": "0.1", "server": "otii-server"}
        received = b""
        try:
            _send_message(client, {"type": "information", "info": "connected", "data": greeting})
            while data := client.recv(65536):
                *lines, received = (received + data).split(b"\r\n")
                for line in lines:
                    request = json.loads(line)
                    _send_message(
                        client,
                        {**self._answer(request["cmd"], request.get("data", {})), "trans_id": request["trans_id"]},
                    )
        except OSError:
            return

    def _answer(self, command: str, data: dict[str, Any]) -> dict[str, Any]:
        self.commands.append((command, data))
        if command in self.refuse:
            why = {"message": self.refuse[command]}
            return {"type": "error", "cmd": command, "errorcode": "Command failure", "data": why}
        return {"type": "response", "cmd": command, "data": self._act(command, data)}

    def _act(self, command: str, data: dict[str, Any]) -> dict[str, Any]:
        state = self.state
        if command == "otii_is_logged_in":
            return {"logged_in": self._logged_in}
        if command == "otii_get_licenses":
            free = {"id": 1, "type": "Automation", "available": self._licensed, "reserved_to": "", "hostname": ""}
            return {"licenses": [free]}
        if command == "otii_get_devices":
            return {"devices": [{"device_id": i, "name": n, "type": t} for i, n, t in self._devices]}
        if command == "otii_get_active_project":
            return {"project_id": 7}
        if command == "arc_set_main":
            state["main"] = data["enable"]
        elif command == "arc_get_main":
            return {"value": state["main"]}
        elif command == "arc_set_main_voltage":
            state["voltage"] = data["value"]
        elif command == "arc_get_main_voltage":
            return {"value": state["voltage"]}
        elif command == "arc_set_max_current":
            state["max_current"] = data["value"]
        elif command == "arc_enable_channel":
            state["channels"][data["channel"]] = data["enable"]
        elif command == "arc_get_channel_samplerate":
            return {"value": CURRENT_HZ}
        elif command == "arc_get_version":
            return {"hw_version": "1.1.2", "fw_version": "3.0.5"}
        elif command == "project_start_recording":
            self._start_s = self._now() + self.delay_s
        elif command == "project_stop_recording":
            self._end_s = self._now()
        elif command == "project_get_last_recording":
            return {"recording_id": 3, "name": "Recording", "start-time": "2026-01-01T00:00:00Z"}
        elif command == "recording_get_channel_data_count":
            return {"count": self._count(data["channel"])}
        elif command == "recording_get_channel_data":
            return self._data(data["channel"], data["index"], data["count"])
        return {}

    def _count(self, channel: str) -> int:
        if channel in ("i1", "i2"):
            return len(self._edges.get(channel, []))
        rate = CURRENT_HZ if channel == "mc" else VOLTAGE_HZ
        return int((self._end_s - self._start_s) * (1 - self.missing) * rate)

    def _data(self, channel: str, index: int, count: int) -> dict[str, Any]:
        if channel in ("i1", "i2"):
            return {
                "data_type": "digital",
                "values": [{"timestamp": t, "value": v} for t, v in self._edges.get(channel, [])],
            }
        rate = CURRENT_HZ if channel == "mc" else VOLTAGE_HZ
        t_s = self._start_s + (index + np.arange(count)) / rate
        volts = np.full(count, float(self.state["voltage"]))
        values = volts if channel == "mv" else self._signal.mean_w(t_s, t_s) / volts
        if channel == "mc":
            number = index + np.arange(count)
            values = np.where((number >= self.hole[0]) & (number < self.hole[1]), np.nan, values)
        return {"data_type": "analog", "timestamp": index / rate, "interval": 1 / rate, "values": values.tolist()}


def _send_message(client: socket.socket, message: dict[str, Any]) -> None:
    client.sendall(json.dumps(message).encode() + b"\r\n")
