"""Public name of :mod:`rmve.clusters.stability`."""

import sys

from rmve.clusters import stability

sys.modules[__name__] = stability
