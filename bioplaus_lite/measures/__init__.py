"""How well a rule assigns credit: named questions to any rule, written once.

Angles are in degrees: 0 is parallel, 90 carries no information, 180 is opposite. Backpropagation by autograd
is the reference. Every function leaves the rule's gradients, mode and weights as it found them.

``named`` holds the questions that a training puts on record by their names, ``probe`` what several of them need of a
rule and a batch, worked out once. They ask what the plain functions do: ``errors`` compares with backpropagation,
``inverses`` with Gauss–Newton steps, ``feedback`` the weights up and down, ``changes`` says what varies, ``angles`` is
the geometry. All public names can be imported from here.
"""

from bioplaus_lite.measures.angles import angle, angles_by_row, participation_ratio
from bioplaus_lite.measures.changes import Dynamics, gradient_noise, update_snr
from bioplaus_lite.measures.errors import error_angles, same_spikes_angles, update_angles
from bioplaus_lite.measures.feedback import feedback_product, path_feedback, pseudo_inverse_angle, weight_angles
from bioplaus_lite.measures.inverses import gauss_newton_angles, inverse_jacobian_angles, target_steps
from bioplaus_lite.measures.named import MEASURES, Measure, measure
from bioplaus_lite.measures.probe import Probe, backprop_errors, gradients, true_gradients

__all__ = [
    "MEASURES",
    "Dynamics",
    "Measure",
    "Probe",
    "angle",
    "angles_by_row",
    "backprop_errors",
    "error_angles",
    "feedback_product",
    "gauss_newton_angles",
    "gradient_noise",
    "gradients",
    "inverse_jacobian_angles",
    "measure",
    "participation_ratio",
    "path_feedback",
    "pseudo_inverse_angle",
    "same_spikes_angles",
    "target_steps",
    "true_gradients",
    "update_angles",
    "update_snr",
    "weight_angles",
]
