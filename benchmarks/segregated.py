"""Time of one training example of the segregated compartments: spiking, readable, and in the rate limit.

784-500-10, float32, online, on digits; training epochs run through whole blocks of examples, as ``learn`` does. The
compiled engine on one and two threads, the rate limit and the readable simulation take turns within a round, so that
a slow moment of the machine falls on all of them; the figure is the median over rounds. ``spiking_vs_readable`` is the
median of the ratio within a round. A table for people, then one line of JSON.

    python benchmarks/segregated.py [--rounds 15] [--examples 600]

Full-length trainings, with their seconds and memory, are those of the catalogue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from bioplaus_lite.data import load
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.rules.segregated import SegregatedCompartments

SIZES, DEEP = (784, 500, 10), (784, 500, 100, 10)
DEEP_ETAS = (0.23, 0.23, 0.12)


def make(sizes: tuple[int, ...], constants: SegregatedParameters, **options) -> SegregatedCompartments:
    return SegregatedCompartments(RateNetwork(sizes, constants), **options)


def contenders() -> dict[str, tuple[SegregatedCompartments, float]]:
    """``{name: (rule, share of the examples it is shown in a round)}``."""
    spiking, rate = SegregatedParameters(), SegregatedParameters.rate_limit()
    deep = SegregatedParameters(eta=DEEP_ETAS)
    return {
        "spiking_ms_1_thread": (make(SIZES, spiking), 1.0),
        "spiking_ms_2_threads": (make(SIZES, spiking, threads=2), 1.0),
        "readable_ms": (make(SIZES, spiking, engine="readable"), 0.02),
        "rate_ms": (make(SIZES, rate), 4.0),
        "two_hidden_spiking_ms_1_thread": (make(DEEP, deep), 1.0),
        "two_hidden_readable_ms": (make(DEEP, deep, engine="readable"), 0.02),
        "two_hidden_rate_ms": (make(DEEP, SegregatedParameters.rate_limit(eta=DEEP_ETAS)), 4.0),
        "partial_apical_spiking_ms_1_thread": (make(SIZES, spiking.replace(g_a=0.05)), 1.0),
    }


def milliseconds(call, n: int) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start) / n


def measure(rounds: int, examples: int) -> dict[str, float]:
    data = load("mnist")
    x, y = data.x_train.repeat(4, 1), data.y_train.repeat(4)
    rules, times = contenders(), {}
    for rule, _ in rules.values():
        rule.present(x[:8], y[:8])  # compile
    tested, n_tested = rules["spiking_ms_1_thread"][0], min(200, examples)
    tested.predict_spiking(x[:1])
    for i in range(rounds):
        for name, (rule, share) in rules.items():
            n = max(4, min(int(share * examples), len(x)))
            start = i * n % (len(x) - n + 1)
            part = slice(start, start + n)
            times.setdefault(name, []).append(milliseconds(lambda r=rule, p=part: r.present(x[p], y[p]), n))
        times.setdefault("test_250ms_ms_1_thread", []).append(
            milliseconds(lambda: tested.predict_spiking(x[:n_tested]), n_tested)
        )
    result = {name: statistics.median(t) for name, t in times.items()}
    for prefix in ("", "two_hidden_"):
        pairs = zip(times[prefix + "readable_ms"], times[prefix + "spiking_ms_1_thread"], strict=True)
        result[prefix + "spiking_vs_readable"] = statistics.median(slow / fast for slow, fast in pairs)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--examples", type=int, default=600, help="shown to the compiled engine in a round")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the readable simulation's matrix products, too, where the library obeys
    result = measure(args.rounds, args.examples)
    for name, value in result.items():
        print(f"{name:<38}{value:>10.1f} ×" if name.endswith("_vs_readable") else f"{name:<38}{value:>10.4f}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
