"""Time of one training step of each rule, as a ratio to ``loss.backward()`` with the same optimiser.

Both sides train an MLP of the same sizes and activation on the same batch of 100 with the same SGD: each rule the
network at which its card says that it is at home. The reference is an ordinary PyTorch loop (``torch.nn.Linear``,
``cross_entropy``, ``backward``, ``step``, ``zero_grad``). Rules and reference take turns in short blocks, so that a
slow moment of the machine falls on all of them; the figure is the median over rounds of the ratio within a round. A
table for people, then one line of JSON. It takes about three minutes.

    python benchmarks/rule_step.py [--rounds 12] [--steps 10]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from bioplaus_lite.rules import RULES, Card

SIZES = ((784, 500, 10), (784, 500, 500, 10))
BATCH = 100


UNITS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def reference(sizes: tuple[int, ...], activation: str, x: torch.Tensor, y: torch.Tensor):
    """One step of an ordinary PyTorch training loop."""
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), UNITS[activation]())]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def steps_of(card: Card, sizes: tuple[int, ...], x: torch.Tensor, y: torch.Tensor):
    """One step of the reference, and one of the rule, its own state (mirrors, decay) included."""
    rule = card.make(card.network(sizes))
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=1e-3)
    return reference(sizes, rule.network.activation, x, y), lambda: rule.learn(x, y, optimizer)


def seconds(step, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def measure(sizes: tuple[int, ...], threads: int, rounds: int, steps: int) -> tuple[dict[str, float], float]:
    """``{rule: median ratio}`` and the reference's median milliseconds."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, sizes[0], generator=generator)
    y = torch.randint(sizes[-1], (BATCH,), generator=generator)
    contenders = {name: steps_of(card, sizes, x, y) for name, card in RULES.items() if not card.rule.online}
    for step in itertools.chain(*contenders.values()):
        seconds(step, steps)  # warm up: allocator, thread pool
    ratios, base_times = {name: [] for name in contenders}, []
    for _ in range(rounds):
        for name, (base, step) in contenders.items():
            before = seconds(base, steps)
            own = seconds(step, steps)
            after = seconds(base, steps)
            ratios[name].append(2 * own / (before + after))
            base_times.append(before)
    return {name: statistics.median(r) for name, r in ratios.items()}, 1e3 * statistics.median(base_times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    result: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'network':<16}{'threads':>8}{'autograd ms':>13}  ratio to autograd backprop")
    for sizes in SIZES:
        label = "-".join(map(str, sizes))
        for threads in (1, 2):
            ratios, base = measure(sizes, threads, args.rounds, args.steps)
            result.setdefault(label, {})[str(threads)] = {name: round(r, 3) for name, r in ratios.items()}
            row = "  ".join(f"{name} {r:.2f}" for name, r in ratios.items())
            print(f"{label:<16}{threads:>8}{base:>13.2f}  {row}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
