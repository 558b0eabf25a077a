"""From stages to the graph: `needed_images` asks, the caller answers, `lower` builds.

Pure: the same file, options and images give the same graph, by digest. Behaviour is BuildKit's dockerfile2llb. `plan`
ties the stages together; this room starts each stage from its base and hands its instructions to `lower_config`,
`lower_copy` and `lower_run`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kedge.dockerfile import contexts
from kedge.dockerfile.config import DEFAULT_PATH, ConfigDraft, empty_config
from kedge.dockerfile.drafts import DraftEdge, Drafts
from kedge.dockerfile.findings import Finding, Findings
from kedge.dockerfile.instructions import Add, Copy, Run
from kedge.dockerfile.lower_config import lower_config, set_workdir
from kedge.dockerfile.lower_copy import lower_copy
from kedge.dockerfile.lower_run import lower_run
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage, SecretUse
from kedge.dockerfile.outline import Outline, OutlineArg
from kedge.dockerfile.plan import Plan, StagePlan, Step, make_plan
from kedge.dockerfile.stages import StagedFile
from kedge.dockerfile.state import Lowering, StageState
from kedge.dockerfile.suggest import nearest
from kedge.dockerfile.variables import SBOM_CONTEXT, SBOM_STAGE, platform_text, proxy_env
from kedge.model.errors import DockerfileError, KedgeError, Location, NotFound
from kedge.model.graph import Edge, Hints
from kedge.model.image import ImageConfig
from kedge.model.ops import Source
from kedge.model.platform import Platform, normalize


@dataclass(frozen=True, slots=True)
class LoweredStage:
    """What a stage became. `edge` is None for an empty root file system; `name` is `stage-N` for an unnamed one.

    `scan` is set when BUILDKIT_SBOM_SCAN_STAGE asks for the stage's packages in the SBOM.
    """

    name: str
    index: int
    edge: Edge | None
    config: ImageConfig
    location: Location
    scan: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A lowered build. `edge` is None when the image has no files at all.

    `config` is complete but for diff ids, and `created` where `epoch` (SOURCE_DATE_EPOCH in seconds) is None. Its
    history's entries that are not `empty_layer` stand in the order of the layers: first those of `base` (the base
    image's config), then those `edge` adds. `history_locations` tells, for each entry of `config.history`, which
    lines made it (None: the base image). `stages` are those lowered, in the order of the file, `name` is the
    target's. `context` is the build context as far as it is used.
    """

    edge: Edge | None
    config: ImageConfig
    outline: Outline
    base: ImageConfig | None = None
    name: str = ""
    history_locations: tuple[Location | None, ...] = ()
    stages: tuple[LoweredStage, ...] = ()
    findings: tuple[Finding, ...] = ()
    epoch: int | None = None
    context: Edge | None = None
    scan_context: bool = False

    @property
    def secrets(self) -> tuple[SecretUse, ...]:
        """The secrets that steps name."""
        return self.outline.secrets

    @property
    def ssh(self) -> tuple[SecretUse, ...]:
        """The SSH agents that steps name."""
        return self.outline.ssh


def needed_images(
    file: StagedFile, options: LowerOptions, images: Mapping[ImageRequest, ResolvedImage] | None = None
) -> set[ImageRequest]:
    """The images still to be resolved before `lower` can run, given those known.

    Call it again with the answers until it returns nothing: an ONBUILD trigger in an image may name further images.
    Raises DockerfileError, NotFound.
    """
    return make_plan(file, options, images or {}, Findings()).missing


def lower(
    file: StagedFile,
    options: LowerOptions,
    images: Mapping[ImageRequest, ResolvedImage],
    findings: Findings | None = None,
) -> Target:
    """The graph and image config of the target stage.

    Every error is a KedgeError with file, line and stage. An image that `images` lacks is NotFound.
    """
    findings = findings if findings is not None else Findings()
    plan = make_plan(file, options, images, findings)
    for request in sorted(plan.missing, key=lambda one: (one.reference, str(one.platform))):
        raise _not_found(request)
    lowering = Lowering(plan, Drafts(), proxy_env(plan.globals.build_args))
    lowering.context = contexts.main_context(lowering.drafts, options, lambda: lowering.context_paths)
    for one in plan.needed:
        try:
            _lower_stage(lowering, one)
        except KedgeError as error:
            raise error.at(one.location, one.label) from None
    lowering.states[plan.target].paths.add("/")
    return _finish(lowering)


def _not_found(request: ImageRequest) -> NotFound:
    short = request.reference.removeprefix("docker.io/library/").removesuffix(":latest")
    near = nearest(short, request.alternatives)
    hint = f"Did you mean {near}?" if near and near != short else ""
    return NotFound(
        f"image {request.reference} was not found", location=request.location, stage=request.stage, hint=hint
    )


# ---- one stage -------------------------------------------------------------------------------------------------------


def _lower_stage(lowering: Lowering, one: StagePlan) -> None:
    state = _on_stage(lowering, one) if one.base else _on_image(lowering, one)
    lowering.states[one] = state
    if one.context or one.stage is None:
        return
    _inherit(state)
    for step in one.steps:
        try:
            _lower_step(state, step)
        except KedgeError as error:
            raise error.at(step.command.location, one.label) from None


def _on_stage(lowering: Lowering, one: StagePlan) -> StageState:
    assert one.base
    base = lowering.states[one.base]
    return StageState(
        lowering,
        one,
        base.platform,
        ConfigDraft.of(base.config.freeze(), lowering.plan.globals.epoch, base.config.locations),
        base.root,
        dict(base.env),
        base.cwd,
        base.user,
        dict(base.declared),
        base.paths,
        workdir_set=base.workdir_set,
    )


def _on_image(lowering: Lowering, one: StagePlan) -> StageState:
    options, epoch = lowering.plan.options, lowering.plan.globals.epoch
    platform = options.platform if one.is_scratch else one.platform or options.platform
    config = one.image.config if one.image else empty_config(platform)
    if one.context and one.image is None:
        config = ImageConfig(platform)  # a whole stage replaced by files has no config to inherit
    state = StageState(lowering, one, platform, ConfigDraft.of(replace(config, created=""), epoch))
    if one.is_scratch:
        return state
    context = one.context or one.base_context
    if context:
        state.root = contexts.lower_context(context, lowering.drafts, options, platform, one.image, lambda: state.paths)
        if one.context and one.image:
            state.platform = one.image.config.platform
    else:
        state.root = _image(state)
    return state


def _image(state: StageState) -> DraftEdge | None:
    one, options = state.plan, state.lowering.plan.options
    assert one.request
    image = one.image
    name = contexts.image_name(one.request.reference, image)
    title = f"FROM {name}"
    if one.total:
        state.number += 1
        title = state.title_again(title, env={})
    if image and not image.config.diff_ids and all(entry.empty_layer for entry in image.config.history):
        return None  # an image without layers
    if image:
        _check_platform(state, image.config.platform)
    attrs = (("image.resolvemode", options.resolve_mode),) if options.resolve_mode != "default" else ()
    hints = Hints(title, location=one.location, stage=one.label)
    return state.lowering.drafts.add(Source(f"docker-image://{name}", attrs), platform=state.platform, hints=hints)


def _check_platform(state: StageState, actual: Platform) -> None:
    wanted, one = state.platform, state.plan
    if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
        words = (one.base_name, platform_text(wanted), platform_text(actual))
        state.lowering.plan.findings.report("InvalidBaseImagePlatform", one.location, *words, comments=one.comments)


def _inherit(state: StageState) -> None:
    """Take over what the base's config says about processes."""
    if "PATH" not in state.config.env and state.platform.os != "windows":
        state.config.env["PATH"] = DEFAULT_PATH
    for name, value in state.config.env.items():
        state.set_env(name, value)
    if state.config.working_dir:
        set_workdir(state, state.config.working_dir)
    if state.config.user:
        state.user = state.config.user


def _lower_step(state: StageState, step: Step) -> None:
    command = step.command
    state.in_trigger = step.onbuild
    if isinstance(command, Run):
        sources = [_source(state, command.name, one) for one in step.sources]
        lower_run(state, command, sources)
    elif isinstance(command, (Copy, Add)):
        lower_copy(state, command, [_source(state, command.name, one) for one in step.sources])
    else:
        lower_config(state, command)


def _source(state: StageState, instruction: str, one: StagePlan) -> StageState:
    found = state.lowering.states.get(one)
    if found is None:
        if one.stage is None:
            _lower_stage(state.lowering, one)
            return state.lowering.states[one]
        raise DockerfileError(
            f"{instruction} from stage {one.label} before it is defined",
            hint=f"Move stage {one.label} (line {one.location.start}) above this one.",
        )
    return found


# ---- the whole -------------------------------------------------------------------------------------------------------


def _finish(lowering: Lowering) -> Target:
    plan = lowering.plan
    target = lowering.states[plan.target]
    target.config.labels.update(plan.options.labels)
    stages = tuple(_lowered(lowering, one) for one in plan.needed if one.stage)
    return Target(
        edge=lowering.drafts.finish(target.root),
        config=target.config.freeze(_final_platform(plan, target)),
        outline=_outline(plan),
        base=_base_image(plan.target),
        name=plan.target.name,
        history_locations=tuple(target.config.locations),
        stages=stages,
        findings=tuple(plan.findings.found),
        epoch=plan.globals.epoch,
        context=lowering.drafts.finish(lowering.context),
        scan_context=_scans(target, SBOM_CONTEXT),
    )


def _lowered(lowering: Lowering, one: StagePlan) -> LoweredStage:
    state = lowering.states[one]
    assert one.stage
    edge, config = lowering.drafts.finish(state.root), state.config.freeze()
    return LoweredStage(one.stage.label, one.index, edge, config, one.location, _scans(state, SBOM_STAGE))


def _scans(state: StageState, name: str) -> bool:
    text = state.declared.get(name, state.lowering.plan.globals.values.get(name, ""))
    if text.lower() in ("1", "t", "true"):
        return True
    return bool(state.plan.label) and state.plan.label in text.split(",")


def _base_image(one: StagePlan) -> ImageConfig | None:
    while one.base:
        one = one.base
    return one.image.config if one.image else None


def _final_platform(plan: Plan, target: StageState) -> Platform:
    actual, wanted = target.config.start.platform, plan.options.target_platform
    if wanted is None:
        return actual
    same = (actual.os, actual.architecture) == (wanted.os, wanted.architecture)
    variant = wanted.variant if wanted.variant or not same else actual.variant
    version = wanted.os_version if wanted.os_version or not same else actual.os_version
    return normalize(wanted.os, wanted.architecture, variant, version)


def _outline(plan: Plan) -> Outline:
    """What the target and all it needs take, each name once: the nearest stage decides."""
    args: dict[str, OutlineArg] = {}
    secrets: dict[str, SecretUse] = {}
    ssh: dict[str, SecretUse] = {}
    seen: set[StagePlan] = set()
    stack = [plan.target]
    while stack:
        one = stack.pop()
        if one in seen:
            continue
        seen.add(one)
        for name, found in one.capture.used_args().items():
            args.setdefault(name, OutlineArg(name, found.entry.doc, found.value, found.location))
        secrets = {**one.capture.secrets, **secrets}
        ssh = {**one.capture.ssh, **ssh}
        stack += [*reversed(one.needs), *([one.base] if one.base else [])]
    stage = plan.target.stage
    return Outline(
        plan.target.name,
        stage.doc if stage else "",
        tuple(sorted(args.values(), key=lambda arg: (arg.location.start, arg.name))),
        tuple(sorted(secrets.values(), key=lambda use: (use.location.start, use.id))),
        tuple(sorted(ssh.values(), key=lambda use: (use.location.start, use.id))),
        plan.file.file.source.text,
    )
