# SPDX-License-Identifier: MIT
"""Which version of which weight an evaluation used, read from its own result.

Each kernel adds its weights to what the kernel before it made; weight w of kernel k is zero
but for slot (k, w), which holds the version. So the end of a chain shows, side by side, the
version of every weight of every kernel that took part. Threads run chains without pause while
the sets are swapped hundreds of times and compiles fail: all slots must agree, always.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, soft

CHAINS, LENGTH, PER_KERNEL = 2, 3, 2
SLOTS = LENGTH * PER_KERNEL
WIDTH = 32
EXACT = 2048  # integers below it are exact in half precision; versions are stamped modulo this
LONG = 300.0  # seconds; nothing here takes as long
pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


def kernels() -> ane.KernelSet:
    """CHAINS wired chains of LENGTH kernels, with a text no process has compiled before."""
    made, wires = [], {}
    for c in range(CHAINS):
        for k in range(LENGTH):
            f = mil.Function()
            x = f.input("x", (1, SLOTS, 1, WIDTH))
            for w in range(PER_KERNEL):
                x = f.add(x, f.weight(f"w{w}", (1, SLOTS, 1, 1), f"{c}.{k}.{w}"))
            f.output("y", x)
            t = f.build()
            text = t.text + f"// {uuid.uuid4().hex}\n"
            made.append(
                ane.Kernel(f"c{c}k{k}", text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
            )
            if k:
                wires[f"c{c}k{k}.i00_x"] = f"c{c}k{k - 1}.o00_y"
    return ane.KernelSet(made, wires)


def weights(version: int) -> dict[str, np.ndarray]:
    stamps = {}
    for c in range(CHAINS):
        for k in range(LENGTH):
            for w in range(PER_KERNEL):
                stamp = np.zeros(SLOTS, np.float32)
                stamp[k * PER_KERNEL + w] = version % EXACT
                stamps[f"{c}.{k}.{w}"] = stamp
    return stamps


class Reader(threading.Thread):
    """Runs one chain without pause; keeps what was wrong."""

    def __init__(self, trainer: ane.DoubleBufferedTrainer, chain: int) -> None:
        super().__init__(daemon=True)
        self._trainer, self.stop = trainer, threading.Event()
        self._names = [f"c{chain}k{k}" for k in range(LENGTH)]
        self._end = trainer.surface(self._names[-1], "o00_y")
        self.wrong: list[object] = []
        self.runs = self.refused = 0
        self.versions: set[int] = set()

    def run(self) -> None:
        last = 0
        try:
            while not self.stop.is_set():
                try:
                    self._trainer.run(self._names)
                except ane.EngineError:  # a failpoint: this result does not count
                    self.refused += 1
                    continue
                slots = self._end.read()[0, :, 0, :]
                stamp = int(slots[0, 0])
                version = last + (stamp - last) % EXACT  # the next one that has this stamp
                if not np.all(slots == stamp) or version - last > EXACT // 2:
                    self.wrong.append((slots[:, 0].tolist(), last))
                last = version
                self.runs += 1
                self.versions.add(version)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.wrong.append(error)


@pytest.mark.parametrize("staleness", [1, None, 0, 2])
def test_every_chain_of_evaluations_uses_one_version_of_all_weights(staleness: int | None) -> None:
    swaps_wanted = 600 if staleness in (1, None) else 150
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=staleness) as trainer:
        readers = [Reader(trainer, c) for c in range(CHAINS)]
        for reader in readers:
            reader.start()
        soft.set(
            "failpoints",
            "facade.compile=1%return(1);facade.load=1%return(1);facade.eval=0.1%return(8)",
        )
        swaps = failures = 0
        until = time.monotonic() + LONG
        version = 1
        while swaps < swaps_wanted:
            assert time.monotonic() < until
            assert not any(r.wrong for r in readers), [r.wrong for r in readers]
            given = weights(version)
            try:
                stats = trainer.step(given)
            except ane.AneError:
                failures += 1
                version = trainer.newest + 1
                continue
            finally:
                for array in given.values():
                    array[:] = -1  # the copy counts
            swaps += stats.swapped
            version += 1
            assert stats.newest == version - 1
            assert staleness is None or stats.staleness <= staleness
            assert stats.programs_loaded <= 2 * CHAINS * LENGTH
            if staleness is None:
                time.sleep(0.002)  # else it would count versions faster than sets are built
                while trainer.compiling and trainer.newest - trainer.generation > EXACT // 4:
                    assert (
                        time.monotonic() < until
                    )  # stamps repeat: a reader must not miss that many
                    time.sleep(0.002)
        for reader in readers:
            reader.stop.set()
        for reader in readers:
            reader.join(LONG)
            assert not reader.is_alive()
            assert not reader.wrong
            assert reader.runs > swaps // 4
        soft.set("failpoints", "")
        print(
            f"staleness {staleness}: {swaps} swaps, {failures} failed sets, "
            f"{sum(r.runs for r in readers)} chains on {len(readers[0].versions)} versions, "
            f"{sum(r.refused for r in readers)} refused evaluations"
        )
        assert failures > 0
