#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The switch by itself: switch.py PROGRAM. Plays the machines' part on its sockets."""

import socket
import struct
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import network

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""
ALL = b"\xff" * 6


def mac(station):
    return b"\x52\x54\x00\x00\x00" + bytes([station])


class Machine:
    def __init__(self, folder, port):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(folder / str(port)))
        self.rest = b""

    def send(self, to, source, body):
        frame = to + source + b"\x88\xb5" + body
        self.socket.sendall(struct.pack(">I", len(frame)) + frame)

    def frames(self, expected=1, seconds=10.0):
        """Bodies of the frames that come until there are that many; 0: within a moment."""
        found = []
        until = time.monotonic() + (seconds if expected else 0.3)
        while len(found) < max(expected, 1) and time.monotonic() < until:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                break
            if not got:
                break
            self.rest += got
            while len(self.rest) >= 4:
                length = struct.unpack(">I", self.rest[:4])[0]
                if len(self.rest) < 4 + length:
                    break
                found.append(self.rest[4 + 14 : 4 + length])
                self.rest = self.rest[4 + length :]
        return found


class SwitchTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="roce", dir="/tmp")
        folder = Path(self.temporary.name) / "s"
        self.switch = network.Switch(Path(PROGRAM), folder, 3)
        self.machines = [Machine(folder, port) for port in range(3)]
        for port in range(3):
            until = time.monotonic() + 10
            while self.stat(port)["up"] != "1" and time.monotonic() < until:
                time.sleep(0.01)
        # Everybody is heard once, so that all addresses are known.
        for i, m in enumerate(self.machines):
            m.send(ALL, mac(i), b"hello %d" % i)
            for j, other in enumerate(self.machines):
                if i != j:
                    self.assertEqual(other.frames(), [b"hello %d" % i])

    def tearDown(self):
        for m in self.machines:
            m.socket.close()
        self.switch.close()
        self.temporary.cleanup()

    def stat(self, port):
        return self.switch.command(f"stat {port}")

    def pass_on(self, source, target, body):
        self.machines[source].send(mac(target), mac(source), body)
        return self.machines[target].frames()

    def test_a_frame_goes_to_its_station_only(self):
        self.assertEqual(self.pass_on(0, 1, b"for 1"), [b"for 1"])
        self.assertEqual(self.machines[2].frames(0), [])

    def test_an_unknown_station_is_flooded_and_moves(self):
        self.machines[0].send(mac(9), mac(0), b"who is 9")
        self.assertEqual(self.machines[1].frames(), [b"who is 9"])
        self.assertEqual(self.machines[2].frames(), [b"who is 9"])
        self.machines[2].send(ALL, mac(9), b"me")
        self.machines[0].frames(), self.machines[1].frames()
        self.machines[0].send(mac(9), mac(0), b"again")
        self.assertEqual(self.machines[2].frames(), [b"again"])
        self.assertEqual(self.machines[1].frames(0), [])

    def test_a_cut_port_passes_nothing_until_it_is_healed(self):
        self.switch.command("cut 1")
        self.machines[0].send(mac(1), mac(0), b"in")
        self.machines[1].send(mac(0), mac(1), b"out")
        self.assertEqual(self.machines[1].frames(0) + self.machines[0].frames(0), [])
        self.assertEqual(self.pass_on(0, 2, b"others"), [b"others"])
        self.switch.command("heal 1")
        self.assertEqual(self.pass_on(0, 1, b"in"), [b"in"])
        self.assertEqual(self.stat(1)["lost"], "1")

    def test_a_partition_is_between_two_ports(self):
        self.switch.command("part 0 1")
        self.machines[0].send(mac(1), mac(0), b"no")
        self.machines[1].send(mac(0), mac(1), b"no")
        self.assertEqual(self.machines[1].frames(0) + self.machines[0].frames(0), [])
        self.assertEqual(self.pass_on(0, 2, b"yes"), [b"yes"])
        self.switch.command("join 1 0")
        self.assertEqual(self.pass_on(0, 1, b"yes"), [b"yes"])

    def test_loss_takes_its_share(self):
        self.switch.command("loss 1 300000")
        for i in range(2000):
            self.machines[0].send(mac(1), mac(0), b"%d" % i)
        self.switch.command("loss all 0")
        until = time.monotonic() + 10
        while int(self.stat(0)["in"]) < 2001 and time.monotonic() < until:
            time.sleep(0.01)
        lost = int(self.stat(1)["lost"])
        self.assertTrue(450 < lost < 750, lost)
        self.assertEqual(len(self.machines[1].frames(2000 - lost)), 2000 - lost)

    def test_delayed_frames_come_late_and_in_order(self):
        self.switch.command("delay 1 200000")
        begin = time.monotonic()
        for i in range(50):
            self.machines[0].send(mac(1), mac(0), b"%d" % i)
        self.assertEqual(self.machines[1].frames(50), [b"%d" % i for i in range(50)])
        self.assertGreaterEqual(time.monotonic() - begin, 0.2)
        self.switch.command("delay 1 0")
        self.assertEqual(self.pass_on(0, 1, b"soon"), [b"soon"])

    def test_a_slow_reader_loses_nothing(self):
        body = bytes(8000)
        for _ in range(2000):  # 16 MB: more than sockets hold
            self.machines[0].send(mac(1), mac(0), body)
        self.assertEqual(len(self.machines[1].frames(2000)), 2000)
        self.assertEqual(self.stat(1)["overflowed"], "0")

    def test_a_length_that_cannot_be_ends_the_connection(self):
        self.machines[0].socket.sendall(b"\xff\xff\xff\xff" + bytes(100))
        self.assertEqual(self.machines[0].frames(1), [])
        self.assertEqual(self.stat(0)["up"], "0")
        self.assertEqual(self.pass_on(1, 2, b"others"), [b"others"])

    def test_bad_commands_are_refused(self):
        for text in ",cut,cut 3,cut -1,loss 1,loss 1 x,part 0,fly 1,stat all".split(","):
            with self.assertRaises(ValueError, msg=text):
                self.switch.command(text)


if __name__ == "__main__":
    unittest.main(verbosity=1)
