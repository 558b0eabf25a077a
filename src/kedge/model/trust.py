"""What of a store a build may use without asking where it came from.

A store that clients share has what one of them fetched with his credentials; another must not have it for nothing.
What was proved once in a build is proved for that build. Content is known by its digest: who knows that, and has an
image or a repository of his own that names it, is not asked again.
"""

from typing import Literal, TypeAlias

# "all": the store is the user's own. "names": what is named in it is everybody's, as in Docker; of all else, who serves
# it is asked first whether this client may have it. "none": nothing is found by its name, as in BuildKit, either.
Trust: TypeAlias = Literal["all", "names", "none"]
