"""Runs in a task: short requests, each on a connection of its own, until stdin ends or so many are made.

    call.py HOST PORT [--udp] [--family 4|6] [--count N] [--threads N] [--pause SECONDS] [--timeout SECONDS]

With --udp they are datagrams, and all of a thread's are sent from one socket.

Prints a JSON list: for each request when it began and ended (seconds since the epoch), who answered (null: nobody)
and what went wrong.
"""

import argparse
import json
import socket
import sys
import threading
import time

Made = tuple[float, float, str | None, str]
FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}


def request(arguments: argparse.Namespace) -> Made:
    """One request."""
    family = FAMILIES[arguments.family]
    began, who, wrong = time.time(), None, ""
    try:
        target = socket.getaddrinfo(arguments.host, arguments.port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(arguments.timeout)
            one.connect(target)
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := one.recv(4096):
                answer += part
        _, _, body = answer.partition(b"\r\n\r\n")
        who = body.decode() or None
    except OSError as error:
        wrong = repr(error)
    return began, time.time(), who, wrong


def ask(one: socket.socket) -> Made:
    """One datagram, and what comes back."""
    began, who, wrong = time.time(), None, ""
    try:
        one.send(b"hello")
        who = one.recv(4096).decode()
    except OSError as error:
        wrong = repr(error)
    return began, time.time(), who, wrong


def connected(arguments: argparse.Namespace) -> socket.socket:
    """A UDP socket that sends to the target."""
    family = FAMILIES[arguments.family]
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.settimeout(arguments.timeout)
    one.connect(socket.getaddrinfo(arguments.host, arguments.port, family, socket.SOCK_DGRAM)[0][4])
    return one


def main(arguments: argparse.Namespace) -> None:
    """Make the requests, then say what came of them."""
    made: list[Made] = []
    stop = threading.Event()

    def work(count: int | None) -> None:
        flow = connected(arguments) if arguments.udp else None
        while not stop.is_set() and (count is None or count > 0):
            made.append(ask(flow) if flow else request(arguments))
            count = None if count is None else count - 1
            time.sleep(arguments.pause)

    together = min(arguments.threads, arguments.count or arguments.threads)
    each = arguments.count // together if arguments.count else None
    threads = [threading.Thread(target=work, args=(each,)) for _ in range(together)]
    for thread in threads:
        thread.start()
    if each is None:
        print("calling", file=sys.stderr, flush=True)
        sys.stdin.read()
        stop.set()
    for thread in threads:
        thread.join()
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--udp", action="store_true")
    parser.add_argument("--family", choices=FAMILIES, default="4")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--timeout", type=float, default=2.0)
    main(parser.parse_args())
