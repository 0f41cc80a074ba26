"""Dendritic microcircuits (Sacramento, Costa, Bengio & Senn 2018): the apical voltage is the error, without phases.

``parameters`` holds the constants of the model, ``dynamics`` the model in continuous time, ``rule`` its steady state as
a learning rule.
"""

from bioplaus_lite.rules.microcircuits.dynamics import (
    Compartments,
    Progress,
    Recording,
    Simulation,
    State,
    TeacherRegression,
    Weights,
    compartments,
    random_weights,
    self_predicting,
    step,
    teacher_regression,
)
from bioplaus_lite.rules.microcircuits.parameters import MicrocircuitParameters
from bioplaus_lite.rules.microcircuits.rule import Microcircuits, PyramidalNetwork

__all__ = [
    "Compartments",
    "MicrocircuitParameters",
    "Microcircuits",
    "Progress",
    "PyramidalNetwork",
    "Recording",
    "Simulation",
    "State",
    "TeacherRegression",
    "Weights",
    "compartments",
    "random_weights",
    "self_predicting",
    "step",
    "teacher_regression",
]
