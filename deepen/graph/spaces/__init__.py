"""Search spaces whose networks have a name: from the name to the network.

A network's kernels are :mod:`deepen.kernels.spaces`' matter.
"""

from __future__ import annotations
