"""Two hosts on one machine: a network namespace each, and a cable that loses packets or is cut.

    with Wire() as wire: wire.start(0, [...]); wire.loss = 0.05; wire.is_cut = True

Frames go from one host to the other through this module, which drops some: the kernel's netem is
not everywhere. Needs Linux and CAP_SYS_ADMIN; `missing_right` says what is missing.
"""

import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
ETH_P_ALL, PACKET_OUTGOING = 3, 4
ADDRESS = "10.77.0.{}"
HOSTS = (0, 1)

# In each host: its own network and shared memory, then the command. The cable is put in meanwhile.
HOST = """
import os, subprocess, sys
os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
print(os.getpid(), flush=True)
sys.stdin.readline()
for words in ("link set lo up", f"addr add {sys.argv[1]}/24 dev {sys.argv[2]}",
              f"link set {sys.argv[2]} up", f"route add default dev {sys.argv[2]}"):
    subprocess.run(["ip", *words.split()], check=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


def missing_right() -> str:
    """Return why there can be no wire here, "" if there can."""
    python = [sys.executable, "-c", "import os; os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)"]
    veth = ["unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
    for what, words in (("network namespaces", python), ("veth", veth)):
        try:
            subprocess.run(words, capture_output=True, text=True, check=True)
        except OSError as error:
            return f"no {what} here: {error}"
        except subprocess.CalledProcessError as error:
            return f"no {what} here: {error.stderr.strip().splitlines()[-1]}"
    return ""


class Wire:
    """A cable between two hosts: `loss` is the share of frames that it loses, `is_cut` all.

    `passed` and `bytes` count what went through, by the host that sent it. The thread that carries
    frames lives in a namespace of its own; this process stays where it was.
    """

    def __init__(self, seed: int = 0):
        self.loss, self.is_cut = 0.0, False
        self.passed, self.bytes = [0, 0], [0, 0]
        self.processes: list[subprocess.Popen] = []
        self._rng = random.Random(seed)
        self._wanted: list[tuple] = []
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> "Wire":
        self._thread.start()
        assert self._ready.wait(10.0)
        return self

    def __exit__(self, *error) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._stop.set()
        self._thread.join()

    def start(self, host: int, command: list[str], **settings) -> subprocess.Popen:
        """Run a command on one of the hosts; each has one."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, ADDRESS.format(host + 1), f"e{host}", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **settings,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout.readline().strip() == str(process.pid)
        done = threading.Event()
        self._wanted.append((host, process.pid, done))
        assert done.wait(10.0)
        process.stdin.write("\n")
        process.stdin.flush()
        return process

    def _carry(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # Of this thread alone: the rest of the process keeps its network.
        assert libc.unshare(os.CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        ends = []
        for host in HOSTS:
            _ip(f"link add w{host} type veth peer name e{host}")
            for name in (f"w{host}", f"e{host}"):
                _send_whole_checksums(name)
            _ip(f"link set w{host} up")
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            end.bind((f"w{host}", 0))
            ends.append(end)
        self._ready.set()
        while not self._stop.is_set():
            if self._wanted:
                host, pid, done = self._wanted.pop()
                _ip(f"link set e{host} netns {pid}")
                done.set()
            for end in select.select(ends, [], [], 0.05)[0]:
                self._pass_on(ends.index(end), ends)

    def _pass_on(self, host: int, ends: list[socket.socket]) -> None:
        try:
            frame, address = ends[host].recvfrom(65_535)
            if address[2] == PACKET_OUTGOING or self.is_cut or self._rng.random() < self.loss:
                return
            self.passed[host] += 1
            self.bytes[host] += len(frame)
            ends[1 - host].send(frame)
        except OSError:  # a host that has ended has taken its end of the cable with it
            return


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _send_whole_checksums(name: str) -> None:
    """Have packets leave with their checksum: the kernel spares it where no cable is."""
    value = struct.pack("II", ETHTOOL_STXCSUM, 0)
    holder = ctypes.create_string_buffer(value, len(value))
    request = struct.pack("16sP", name.encode(), ctypes.addressof(holder))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)
