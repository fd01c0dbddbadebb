"""Taken ports, as /proc/net has them."""

from __future__ import annotations

import socket

from agent.fitness.taken_ports import ports, spans, taken

UDP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0050 0100007F:094B 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
"""


def test_tables_are_read() -> None:
    assert ports(UDP, listening=False) == {51820}
    assert ports(TCP, listening=True) == {2379}


def test_own_sockets_are_found() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_INET6) as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("::1", 0))
        assert udp.getsockname()[1] in taken("udp")
        assert tcp.getsockname()[1] not in taken("tcp")
        tcp.listen()
        assert tcp.getsockname()[1] in taken("tcp")


def test_runs_are_joined() -> None:
    assert spans({5, 1, 2, 3, 7}) == [[1, 3], [5, 5], [7, 7]]
    assert spans(()) == []
