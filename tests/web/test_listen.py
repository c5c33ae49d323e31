"""The address that a server listens on, before it serves."""

from __future__ import annotations

import socket

import pytest

from edit_r1.web.listen import address, bind


def test_a_second_server_is_told_before_it_reads_anything() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{port} cannot be listened on .*choose another --port"):
            bind("127.0.0.1", port)
        assert address(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass  # whoever comes early is not refused
    bind("127.0.0.1", port).close()  # the port is free again at once


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ValueError, match="cannot be listened on"):
        bind("192.0.2.1", 0)
