"""An image config while a stage is read: what each instruction changes, and the history it writes.

Owns the config's rules (a variable set again keeps its place; ENTRYPOINT resets an inherited CMD). Does not know
variables' expansion or the graph.
"""

from kedge.dockerfile.history import COMMENT
from kedge.model.errors import Location
from kedge.model.image import Healthcheck, History, ImageConfig
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field, replace

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class ConfigDraft:
    """The config of a stage, open for change. `start` is what it began from; lists keep the order of first mention."""

    start: ImageConfig
    env: dict[str, str]
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None
    user: str
    working_dir: str
    labels: dict[str, str]
    exposed_ports: set[str]
    volumes: set[str]
    stop_signal: str
    healthcheck: Healthcheck | None
    shell: tuple[str, ...] | None
    args_escaped: bool
    author: str
    history: list[History]
    locations: list[Location | None]
    epoch: int | None
    on_build: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, image: ImageConfig, epoch: int | None, locations: list[Location | None] | None = None) -> "ConfigDraft":
        """A draft that starts from `image`; its ONBUILD triggers are not inherited."""
        return cls(
            start=image,
            env=dict(entry.partition("=")[::2] for entry in image.env),
            entrypoint=image.entrypoint,
            cmd=image.cmd,
            user=image.user,
            working_dir=image.working_dir,
            labels=dict(image.labels),
            exposed_ports=set(image.exposed_ports),
            volumes=set(image.volumes),
            stop_signal=image.stop_signal,
            healthcheck=image.healthcheck,
            shell=image.shell,
            args_escaped=image.args_escaped,
            author=image.author,
            history=list(image.history),
            locations=list(locations) if locations is not None else [None] * len(image.history),
            epoch=epoch,
        )

    def commit(self, text: str, location: Location, *, layer: bool = False) -> None:
        """Note what an instruction did; `layer` when it made one."""
        created = epoch_text(self.epoch)
        self.history.append(History(text, COMMENT, created, empty_layer=not layer))
        self.locations.append(location)

    def freeze(self, platform: Platform | None = None) -> ImageConfig:
        """The config as it stands; `platform` replaces the base's."""
        return replace(
            self.start,
            platform=platform or self.start.platform,
            env=tuple(f"{name}={value}" for name, value in self.env.items()),
            entrypoint=self.entrypoint,
            cmd=self.cmd,
            user=self.user,
            working_dir=self.working_dir,
            labels=tuple(sorted(self.labels.items())),
            exposed_ports=tuple(sorted(self.exposed_ports)),
            volumes=tuple(sorted(self.volumes)),
            stop_signal=self.stop_signal,
            healthcheck=self.healthcheck,
            on_build=tuple(self.on_build),
            shell=self.shell,
            args_escaped=self.args_escaped,
            author=self.author,
            created=epoch_text(self.epoch),
            history=tuple(self.history),
        )


def empty_config(platform: Platform) -> ImageConfig:
    """The config of `FROM scratch`."""
    env = () if platform.os == "windows" else (f"PATH={DEFAULT_PATH}",)
    return ImageConfig(platform, env=env, working_dir="/")


def epoch_text(epoch: int | None) -> str:
    """SOURCE_DATE_EPOCH as RFC 3339, empty for None."""
    if epoch is None:
        return ""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""
