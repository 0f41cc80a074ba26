"""Segregated compartments (Guerguiev, Lillicrap & Richards 2017): a spiking network that learns from plateaus.

``parameters`` holds the constants, ``weights`` what is learned, ``simulation`` the model as it reads in the paper,
``rate`` its closed-form rate limit, ``condition`` that of the paper's theorem. There are two engines: ``compiled``,
the same model compiled, and ``readable``, the simulation with the same calls. The learning rule is in
``rules.segregated``.
"""

from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.rate import RateNetwork, rate_update
from bioplaus_lite.models.segregated.simulation import Dendrites, Outcome, Simulation, State, Synapses, Trace, step

__all__ = [
    "Dendrites",
    "Outcome",
    "RateNetwork",
    "SegregatedParameters",
    "Simulation",
    "State",
    "Synapses",
    "Trace",
    "rate_update",
    "step",
]
