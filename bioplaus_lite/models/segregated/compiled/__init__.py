"""The same model, compiled: event-driven, online, one example at a time.

What makes it quick, against :mod:`~bioplaus_lite.models.segregated.simulation`, which is the reference for what it
computes:

- Only spikes cost anything. A step adds the rows of a contiguous ``Wᵀ`` that belong to the neurons that fired;
  the response kernel is linear, so it filters the sums. It is a difference of two exponentials, hence
  two leaky sums, from which a spike's last trace is taken off when its memory ends.
- Random numbers are drawn ahead, by a second thread if there is one (``draws``).
- Means are counts of spikes (``credit``), and layers are padded to what a processor adds at once (``arrays``).

``compiler`` holds the options, ``arrays`` and ``constants`` what the loops work on, ``arithmetic`` and ``vectors`` the
inner loops, ``draws``, ``phases`` and ``credit`` the parts of an example, ``blocks`` what is called from Python,
``flat`` what the two engines share, ``rates`` and ``engine`` the engines, ``memory`` where they find the weights.
"""

from bioplaus_lite.models.segregated.compiled.engine import Engine
from bioplaus_lite.models.segregated.compiled.memory import SharedMemory
from bioplaus_lite.models.segregated.compiled.rates import RateEngine

__all__ = ["Engine", "RateEngine", "SharedMemory"]
