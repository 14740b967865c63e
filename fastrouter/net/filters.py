"""Classic BPF programs that the kernel runs on sockets (Linux only; Python has no names for them).

Source: Linux' Documentation/networking/filter.rst, linux/filter.h, linux/bpf_common.h, asm-generic/socket.h.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

SO_ATTACH_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51

LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_IF_SET: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

RANDOM: Final = 0xFFFFF000 + 56
"""An address that loads a random word (SKF_AD_OFF + SKF_AD_RANDOM)."""

Step = tuple[int, int, int, int]
"""Operation, how many steps to skip if true and if false, operand."""

_STEP: Final = struct.Struct("HBBI")

_TCP_FLAGS: Final = 13  # the packet begins with its TCP header
_SYN: Final = 0x02

_NO_SYN: Final[Sequence[Step]] = (
    (LOAD_BYTE, 0, 0, _TCP_FLAGS),
    (JUMP_IF_SET, 0, 1, _SYN),
    (RETURN, 0, 0, 0),
    (RETURN, 0, 0, 0xFFFFFFFF),
)


def attach(sock: socket.socket, option: int, steps: Sequence[Step]) -> None:
    """Give the socket a program; raises ``OSError`` where the kernel does not know it."""
    code = b"".join(_STEP.pack(*step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(steps), ctypes.addressof(held)))


def drop_new_connections(sock: socket.socket) -> bool:
    """Let the kernel drop each SYN to a listening socket, as if lost; return whether it can.

    Connections that it has answered already are completed and queued. Who comes anew tries again after a
    second, and finds the socket of somebody else, or none. There is no way back for the socket.
    """
    try:
        attach(sock, SO_ATTACH_FILTER, _NO_SYN)
    except OSError:
        return False
    return True
