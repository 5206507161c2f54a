"""Naive reference of the loop analysis: one dictionary per question, orders as tuples."""

from __future__ import annotations

import numpy as np

from features.graph import Program
from features.hardware import Hardware
from features.hlo import OPCODES
from features.layout.loops import AMOUNTS
from features.layout.metagraph import operand_origins
from features.layout.nodes import ConfigurableNodes
from features.program import CLASS_NAMES, CLASS_OF
from features.tensors import Tensors, slots

Order = tuple[int, ...]

ELEMENTWISE = {"transcendental", "arithmetic", "logic", "convert"}


class Reference:
    def __init__(self, program: Program, tensors: Tensors, nodes: ConfigurableNodes, hardware: Hardware) -> None:
        self.nodes, self.hardware = nodes, hardware
        self.count = range(len(program))
        self.opcode = [OPCODES[number] for number in program.opcode]
        self.classes = [CLASS_NAMES[number] for number in CLASS_OF[program.opcode]]
        self.shape = [tensors.shape(node) for node in self.count]
        self.own = [tuple(tensors.layout(node).tolist()) for node in self.count]
        self.size, self.width = tensors.elements, tensors.width
        # The largest first, as the kernel has them.
        self.operands = [
            sorted(set(program.operands.of(node).tolist()), key=lambda other: (-self.size[other], other))
            for node in self.count
        ]
        self.users = [[user for user in self.count if node in self.operands[user]] for node in self.count]
        self.window = [int(np.maximum(slots(program.feat[node], "window_size"), 1).prod()) for node in self.count]
        self.origin = {}
        for node in self.count:
            for other in self.operands[node]:
                row = operand_origins(program, tensors, np.array([[node, other]]))[0]
                self.origin[node, other] = row[: len(self.shape[other])].tolist()

    def kind(self, node: int) -> str:
        if (opcode := self.opcode[node]) in ("reduce", "reduce-window", "select-and-scatter"):
            return "reduce" if opcode == "reduce" else "window"
        free = self.classes[node] in {*ELEMENTWISE, "broadcast", "reshape", "transpose"}
        return "flexible" if free or opcode in ("slice", "pad", "concatenate") else "fixed"

    def wide(self, node: int, order: Order) -> Order:
        return tuple(dim for dim in order if self.shape[node][dim] > 1)

    def minor(self, node: int, order: Order) -> int:
        return next(iter(self.wide(node, order)), -1)

    def inner(self, node: int) -> int:
        return self.minor(node, tuple(range(len(self.shape[node])))[::-1])

    def splits(self, node: int) -> bool:
        return self.opcode[node] in ("reshape", "bitcast")

    def pairs_up(self, node: int, other: int) -> bool:
        origin, here, there = self.origin[node, other], self.shape[node], self.shape[other]
        return all(there[dim] <= 1 or (to >= 0 and here[to] == there[dim]) for dim, to in enumerate(origin))

    def onto_operand(self, node: int, other: int, order: Order) -> Order | None:
        if self.splits(node) and not self.pairs_up(node, other):
            return None
        origin = self.origin[node, other]
        carried = [dim for to in order for dim in range(len(origin)) if origin[dim] == to]
        return tuple(carried + [dim for dim in reversed(range(len(origin))) if dim not in carried])

    def onto_result(self, node: int, other: int, order: Order) -> Order | None:
        if self.splits(node) and not self.pairs_up(node, other):
            return None
        origin = self.origin[node, other]
        carried = [origin[dim] for dim in order if origin[dim] >= 0]
        return tuple(carried + [dim for dim in reversed(range(len(self.shape[node]))) if dim not in carried])

    def asked(self, config: np.ndarray) -> tuple[dict[int, Order], dict[tuple[int, int], Order]]:
        leaving, asking = {}, {}
        for index, node in enumerate(self.nodes.ids.tolist()):
            tensors = (node, *self.nodes.operands[index].tolist())
            for role, tensor in enumerate(tensors):
                if tensor < 0:
                    continue
                rank, row = len(self.shape[tensor]), config[index, 6 * role : 6 * role + 6].tolist()
                named = list(dict.fromkeys(row[: next((at for at, dim in enumerate(row) if not 0 <= dim < rank), 6)]))
                if not named:
                    continue
                order = tuple(named + [dim for dim in self.own[tensor] if dim not in named])
                if role:
                    asking[node, tensor] = order
                else:
                    leaving[node] = order
        return leaving, asking

    def computed_in(self, leaving: dict[int, Order], asking: dict[tuple[int, int], Order]) -> dict[int, Order]:
        order: dict[int, Order] = {}
        for node in reversed(self.count):
            if self.kind(node) in ("fixed", "reduce"):
                order[node] = self.own[node]
            elif node in leaving:
                order[node] = leaving[node]
            else:
                users = self.users[node]
                spread = [
                    turned
                    for user in users
                    if self.kind(user) in ("flexible", "window") and user in order
                    if self.wide(user, order[user]) != self.wide(user, self.own[user])
                    if (turned := self.onto_operand(user, node, order[user])) is not None
                ]
                # What is set, then what spreads, then what heavy operations want.
                if demanded := [asking[user, node] for user in users if (user, node) in asking] or spread:
                    order[node] = min(demanded)
                elif any(self.kind(user) == "fixed" for user in users):
                    order[node] = self.own[node]
        for node in self.count:
            if node in order:
                continue
            order[node] = self.own[node]
            handed_on = []
            for other in self.operands[node]:
                seen = leaving.get(other, order[other])
                if not self.shape[other] or self.wide(other, seen) == self.wide(other, self.own[other]):
                    continue
                turned = self.onto_result(node, other, seen)
                if turned is not None and self.size[other] >= self.size[node]:
                    handed_on.append((-self.size[other], turned))
            if handed_on:
                order[node] = min(handed_on)[1]
        return order

    def missed(self, node: int, order: Order) -> float:
        shape, cache, line = self.shape[node], self.hardware.caches[0], self.hardware.line_bytes
        ways = cache.ways or cache.nbytes // line
        n_sets = max(cache.nbytes // (ways * line), 1)
        addresses = np.arange(int(self.size[node])).reshape([shape[dim] for dim in reversed(order)])
        addresses = addresses.transpose([order[::-1].index(dim) for dim in range(len(shape))]).reshape(-1)[:4096]
        lines = (addresses * int(self.width[node]) // line).tolist()
        sets: dict[int, list[int]] = {}
        before: set[int] = set()
        again = 0
        for index, touched in enumerate(lines):
            if index and touched == lines[index - 1]:
                continue
            stack = sets.setdefault(touched % n_sets, [])
            if touched in stack:
                stack.remove(touched)
            else:
                again += touched in before
                before.add(touched)
                if len(stack) == ways:
                    stack.pop(0)
            stack.append(touched)
        return again / len(lines)

    def amounts(self, config: np.ndarray) -> dict[str, float]:
        total = dict.fromkeys(AMOUNTS, 0.0)
        leaving, asking = self.asked(config)
        order = self.computed_in(leaving, asking)
        seen = {node: leaving.get(node, order[node]) for node in self.count}
        stored = {
            node: self.kind(node) != "flexible"
            or node in leaving
            or not self.users[node]
            or (len(self.users[node]) > 1 and self.classes[node] == "transcendental")
            or any((user, node) in asking or self.kind(user) in ("fixed", "window") for user in self.users[node])
            for node in self.count
        }

        def at_steps(node: int, to: Order) -> None:
            if self.minor(node, to) == self.inner(node):
                return
            step = self.width[node] * np.prod([self.shape[node][dim] for dim in to[: to.index(self.inner(node))]])
            total["written"] += self.size[node]
            total["missed"] += self.size[node] * self.missed(node, to)
            total["paged"] += self.size[node] * (step >= 4096)

        def copy(node: int, come: Order, want: Order) -> None:
            if self.wide(node, come) == self.wide(node, want):
                return
            at_steps(node, want)
            read, written = (self.minor(node, each) != self.inner(node) for each in (come, want))
            total["read"] += self.size[node] * (read and not written)
            total["strided" if read or written else "contiguous"] += self.size[node]
            total["loops"] += 1

        def loop(root: int) -> None:
            work, heavy, against = 0, 0, False
            waiting, looked_at = [(root, self.minor(root, order[root]))], set()
            while waiting:
                node, along = waiting.pop()
                if (node, along) in looked_at:
                    continue
                looked_at.add((node, along))
                if node != root and stored[node]:
                    made = self.classes[node] == "source" and self.opcode[node] != "parameter"
                    if self.shape[node] and not made and 4 * self.size[node] >= self.size[root]:
                        against |= self.minor(node, seen[node]) not in (-1, along)
                    continue
                work += self.classes[node] in ELEMENTWISE
                heavy += self.classes[node] == "transcendental"
                for other in self.operands[node]:
                    origin = self.origin[node, other]
                    if self.shape[other]:
                        carried = [dim for dim, to in enumerate(origin) if along >= 0 and to == along]
                        waiting.append((other, carried[-1] if carried else -1))
            size = self.size[root]
            total["loops"] += 1
            total["strided" if against else "contiguous"] += size
            if against:
                total["arithmetic"] += size * work
                total["transcendental"] += size * heavy
                total["read"] += size * (self.minor(root, order[root]) == self.inner(root))
                at_steps(root, order[root])

        for node in self.count:
            largest = max([self.size[node], *(self.size[other] for other in self.operands[node])])
            if not self.operands[node] or not self.shape[node] or largest < 256:
                continue
            changed = self.wide(node, order[node]) != self.wide(node, self.own[node])
            if self.kind(node) == "window":
                total["pooled"] += changed * largest * self.window[node]
            elif self.kind(node) == "reduce":
                for other in self.operands[node]:
                    at_steps_read = self.minor(other, seen[other]) != self.inner(other)
                    total["reduced"] += self.size[other] * (self.size[other] >= 256 and at_steps_read)
            if self.kind(node) in ("fixed", "reduce") and node in leaving:
                copy(node, self.own[node], leaving[node])
            if self.kind(node) == "flexible" and stored[node]:
                if self.opcode[node] == "transpose" or self.splits(node):
                    other = self.operands[node][0]
                    turned = self.onto_operand(node, other, order[node])
                    there = self.wide(other, seen[other])
                    plain = self.splits(node) and not changed and there == self.wide(other, self.own[other])
                    together = turned is not None and self.wide(other, turned) == there
                    if stored[other] and (plain or together):
                        continue
                loop(node)
        for node in self.count:
            for other in self.operands[node]:
                if not self.shape[other] or self.size[other] < 256:
                    continue
                come = seen[other]
                if (node, other) in asking:
                    copy(other, come, asking[node, other])
                    come = asking[node, other]
                want = come
                if self.kind(node) == "fixed":
                    want = self.own[other]
                elif (node, other) in asking and self.splits(node):
                    want = self.onto_operand(node, other, order[node]) or self.own[other]
                copy(other, come, want)
        return total
