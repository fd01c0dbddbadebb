"""The shop's program: counts orders in redis, which it reaches by the name `orders` over its link."""

import http.server
import signal
import socket
import sys

REDIS = ("orders", 6379)


def count_order() -> int:
    """One more order: INCR in redis' own protocol (RESP)."""
    with socket.create_connection(REDIS, timeout=3) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"*2\r\n$4\r\nINCR\r\n$6\r\norders\r\n")
        answer = answers.readline()
    if not answer.startswith(b":"):
        raise OSError(f"redis says {answer!r}")
    return int(answer[1:])


class Shop(http.server.BaseHTTPRequestHandler):
    """GET / places an order."""

    def do_GET(self) -> None:
        """Answer with the order's number, or with what went wrong."""
        try:
            status, text = 200, f"order {count_order()} taken by {socket.gethostname()}\n"
        except OSError as error:
            status, text = 502, f"no redis: {error}\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    # A container's first process heeds no signal of itself, and Docker would wait ten seconds for its end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    http.server.ThreadingHTTPServer(("", 8000), Shop).serve_forever()
