"""Segregated compartments (Guerguiev, Lillicrap & Richards 2017): a spiking network that learns from plateaus.

``parameters`` holds the constants, ``simulation`` the model as it reads in the paper, ``rate`` its closed-form rate
limit, ``kernels`` and ``engine`` the same model compiled, ``rule`` the learning rule.
"""

from bioplaus_lite.rules.segregated.parameters import SegregatedParameters
from bioplaus_lite.rules.segregated.rate import RateNetwork, rate_update
from bioplaus_lite.rules.segregated.rule import Presented, SegregatedCompartments, jacobian_condition
from bioplaus_lite.rules.segregated.simulation import Outcome, Simulation, State, Trace

__all__ = [
    "Outcome",
    "Presented",
    "RateNetwork",
    "SegregatedCompartments",
    "SegregatedParameters",
    "Simulation",
    "State",
    "Trace",
    "jacobian_condition",
    "rate_update",
]
