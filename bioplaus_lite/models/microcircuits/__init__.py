"""Dendritic microcircuits (Sacramento, Costa, Bengio & Senn 2018): the apical voltage is the error, without phases.

``parameters`` holds the constants of the model, ``dynamics`` the model in continuous time, ``network`` the weights that
start in its range. Its steady state as a learning rule is in ``rules.microcircuits``.
"""

from bioplaus_lite.models.microcircuits.dynamics import (
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
from bioplaus_lite.models.microcircuits.network import PyramidalNetwork
from bioplaus_lite.models.microcircuits.parameters import MicrocircuitParameters

__all__ = [
    "Compartments",
    "MicrocircuitParameters",
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
