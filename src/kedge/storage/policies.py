"""Rules by which things go of themselves: how much a store may take, how long what nobody uses stays.

Owns the arithmetic, which is that of BuildKit's garbage collection, and applying rules one after the other. Does not
know what is needed, nor how it goes (`gc`).
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kedge.model.value import dataclass
from kedge.storage.accounts import Usage
from kedge.storage.disk import free_space
from kedge.storage.gc import PruneOptions

if TYPE_CHECKING:
    from kedge.storage.store import Store


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule; sizes in bytes, 0 for none.

    What was not used for `keep_seconds`, and is `chosen`, goes, least recently used first: until the store takes no
    more than `max_used_space` and leaves `min_free_space` of the disk free, but never below `reserved_space`. Without
    any size, all of it goes. `all`: remembered results go, too.
    """

    all: bool = False
    keep_seconds: float = 0
    chosen: Callable[[Usage], bool] | None = None
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0

    def kept(self, total: int, free: int) -> int | None:
        """How much of a store that takes `total`, with `free` bytes left on its disk, may stay; None: sizes do not
        count.
        """
        if not (self.reserved_space or self.max_used_space or self.min_free_space):
            return None
        keep = self.max_used_space
        if (lacking := self.min_free_space - free) > 0:
            keep = min(keep or total, total - lacking)
        elif self.min_free_space and not keep:
            keep = total
        return max(keep, self.reserved_space, 0)


def collect(store: "Store", policies: Sequence[Policy], *, images: bool = True) -> list[Usage]:
    """Apply the rules in their order; returns what went. Costs one look through the store where nothing has to go.

    `images`: names hold images. Without, a rule that is about everything first takes the names of images that came no
    later than it keeps things.
    """
    usage, gone = store.usage(), list[Usage]()
    total = sum(one.size for one in usage)
    for policy in policies:
        keep = policy.kept(total, free_space(store.root))
        before = time.time() - policy.keep_seconds
        until = before if policy.keep_seconds else None
        options = PruneOptions(all=policy.all, until=until, keep=keep, chosen=policy.chosen)
        if keep is not None and total <= keep:
            continue
        if not images and policy.chosen is None:
            for record in store.images.list():
                if record.created_at <= before:
                    store.images.remove(record.name)
        elif (until or policy.chosen) and not any(options.cover(one) and not one.in_use for one in usage):
            continue
        pruned = store.prune(options)
        gone += pruned.records
        total -= pruned.bytes
    return gone
