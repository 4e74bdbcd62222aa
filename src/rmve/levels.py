"""Public name of :mod:`rmve.clusters.levels`."""

import sys

from rmve.clusters import levels

sys.modules[__name__] = levels
