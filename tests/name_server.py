"""A DNS server of one name for tests: UDP, A records alone."""

import asyncio
import struct

ADDRESS, SERVER_FAILED, NO_SUCH_NAME = 1, 2, 3


class NameServer(asyncio.DatagramProtocol):
    """Answers with `addresses` for `name`; attributes may be changed while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: list[str] = []
        self.is_failing = False
        """Whether every question is answered SERVFAIL."""
        self.knows_name = True
        """Whether the name exists; NXDOMAIN otherwise."""
        self.is_silent = False
        self.num_questions = 0
        """For A records of the name."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        """Keep what answers are sent over."""
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        """Answer one question."""
        if not self.is_silent:
            self._transport.sendto(self._answer(data), sender)

    def _answer(self, question: bytes) -> bytes:
        number, _, _, _, _, _ = struct.unpack("!6H", question[:12])
        labels, place = [], 12
        while length := question[place]:
            labels.append(question[place + 1 : place + 1 + length].decode())
            place += 1 + length
        (kind,) = struct.unpack("!H", question[place + 1 : place + 3])
        asked = question[12 : place + 5]
        is_ours = ".".join(labels) == self.name and self.knows_name
        records = self.addresses if is_ours and kind == ADDRESS and not self.is_failing else []
        self.num_questions += is_ours and kind == ADDRESS
        code = SERVER_FAILED if self.is_failing else 0 if is_ours else NO_SUCH_NAME
        head = struct.pack("!6H", number, 0x8580 | code, 1, len(records), 0, 0)
        # Each record: a pointer to the name, type A, class IN, no time to live, four bytes.
        body = b"".join(
            struct.pack("!HHHIH", 0xC00C, ADDRESS, 1, 0, 4) + bytes(map(int, each.split(".")))
            for each in records
        )
        return head + asked + body
