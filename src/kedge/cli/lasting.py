"""What the programs need that last: `kedge serve` and `kedge-buildkitd`.

Owns how such a process is set up before it has threads. Does not know what is served.
"""

import faulthandler
import gc

from kedge.cli import COLLECTED
from kedge.kernel import resources

_STDERR = 2


def expect_to_last() -> None:
    """Look for cycles as often as Python does by itself, for in a process that lasts what they hold adds up; let heaps
    be few and open files many; and tell on stderr what every thread did, should native code crash.
    """
    gc.set_threshold(*COLLECTED)
    resources.share_heaps()
    resources.raise_open_files()
    faulthandler.enable(_STDERR)
