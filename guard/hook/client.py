"""The client where there is no `curl`: standard library only, run by path with `python -I -S`, so that it imports nothing of the working folder.

    python -I -S client.py ask SOCKET URL [START...] < event.json      the daemon's sentence on standard output
    python -I -S client.py start SOCKET START...                       start the daemon, where none answers

`START...`: the command that starts a daemon, used where none answers. Prints nothing where there is no answer, and ends with 1.
"""

import socket
import subprocess
import sys
import time

PATIENCE = 10.0
STARTING = 8.0
MOST = 1 << 20


def connected(path: str) -> "socket.socket | None":
    """None where nobody listens."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PATIENCE)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        return None
    return peer


def started(path: str, command: "list[str]") -> "socket.socket | None":
    """A connection to a daemon that was started now, or by another hook meanwhile."""
    if not command or not command[0].startswith("/"):
        return None
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True)  # noqa: S603 - as it was installed
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        time.sleep(0.05)
        peer = connected(path)
        if peer is not None:
            return peer
    return None


def ask(peer: socket.socket, url: str, body: bytes) -> bytes:
    """The body of a 200, whole; else nothing."""
    target = url.partition("://")[2].partition("/")[2]
    head = f"POST /{target} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    peer.sendall(head.encode("ascii") + body)
    got, until = b"", time.monotonic() + PATIENCE
    while time.monotonic() < until and len(got) <= MOST:
        piece = peer.recv(65536)
        if not piece:
            break
        got += piece
    top, found, said = got.partition(b"\r\n\r\n")
    lines = top.split(b"\r\n")
    lengths = [line.partition(b":")[2].strip() for line in lines[1:] if line.lower().startswith(b"content-length:")]
    if not found or lines[0].split()[1:2] != [b"200"] or lengths != [str(len(said)).encode()]:
        return b""
    return said


def main(argv: "list[str]") -> int:
    try:
        verb, path = argv[0], argv[1]
        if verb == "start":
            return 0 if connected(path) or started(path, argv[2:]) else 1
        body = sys.stdin.buffer.read()
        peer = connected(path) or started(path, argv[3:])
        said = ask(peer, argv[2], body) if verb == "ask" and peer is not None else b""
    except Exception:
        return 1
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return 0 if said else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
