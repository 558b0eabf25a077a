"""From stages to the graph: `needed_images` asks, the caller answers, `lower` builds.

Owns what is asked, and the result. Does not know registries or files: the same file, options and images give the same
graph, by digest. Behaviour is BuildKit's dockerfile2llb. `plan`
ties the stages together, `lower_base` starts each from what it stands on; this room hands its instructions to
`lower_config`, `lower_copy` and `lower_run`, and puts the result together.
"""

from collections.abc import Mapping

from kedge.dockerfile import contexts
from kedge.dockerfile.drafts import Drafts
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Add, Copy, Run
from kedge.dockerfile.lower_base import inherit, start_stage
from kedge.dockerfile.lower_config import lower_config
from kedge.dockerfile.lower_copy import lower_copy
from kedge.dockerfile.lower_run import lower_run
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage, SecretUse
from kedge.dockerfile.outline import Outline, OutlineArg
from kedge.dockerfile.plan import make_plan
from kedge.dockerfile.stage_plan import Plan, StagePlan, Step
from kedge.dockerfile.stages import StagedFile
from kedge.dockerfile.state import Lowering, StageState
from kedge.dockerfile.target import LoweredStage, Target
from kedge.dockerfile.variables import SBOM_CONTEXT, SBOM_STAGE, proxy_env
from kedge.model.errors import DockerfileError, KedgeError, NotFound
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform, normalize

__all__ = ["LoweredStage", "Target", "lower", "needed_images"]


def needed_images(
    file: StagedFile,
    options: LowerOptions,
    images: Mapping[ImageRequest, ResolvedImage] | None = None,
    findings: Findings | None = None,
) -> set[ImageRequest]:
    """The images still to be resolved before `lower` can run, given those known.

    Call it again with the answers until it returns nothing: an ONBUILD trigger in an image may name further images.
    `findings` hears what FROM's checks find, which matters when this raises. Raises DockerfileError, NotFound.
    """
    return make_plan(file, options, images or {}, findings if findings is not None else Findings()).missing


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
            raise error.at(one.location, one.called) from None
    lowering.states[plan.target].paths.add("/")
    return _finish(lowering)


def _not_found(request: ImageRequest) -> NotFound:
    short = request.reference.removeprefix("docker.io/library/").removesuffix(":latest")
    error = NotFound(f"image {request.reference} was not found", hint=request.suggestion(), fault=short)
    error.at(request.location, request.stage)
    return error


# ---- one stage -------------------------------------------------------------------------------------------------------


def _lower_stage(lowering: Lowering, one: StagePlan) -> None:
    if one in lowering.states:
        return  # an image that --from named: lowered when it was needed
    state = lowering.states[one] = start_stage(lowering, one)
    if one.context or one.stage is None:
        return
    inherit(state)
    for step in one.steps:
        try:
            _lower_step(state, step)
        except KedgeError as error:
            raise error.at(step.command.location, one.called) from None


def _lower_step(state: StageState, step: Step) -> None:
    command = step.command
    state.in_trigger, before = step.onbuild, len(state.config.history)
    if isinstance(command, Run):
        sources = [_source(state, command.name, one) for one in step.sources]
        lower_run(state, command, sources)
    elif isinstance(command, (Copy, Add)):
        lower_copy(state, command, [_source(state, command.name, one) for one in step.sources])
    else:
        lower_config(state, command)
    state.lowering.grow(sum(len(entry.created_by) for entry in state.config.history[before:]))


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
        base_name=_bottom(plan.target).base_name,
        base_location=_bottom(plan.target).location,
        is_copied=_is_copied(plan),
    )


def _bottom(one: StagePlan) -> StagePlan:
    """The stage that names the image at the bottom."""
    while one.base:
        one = one.base
    return one


def _is_copied(plan: Plan) -> bool:
    """Whether stages copy out of the target, or out of one it stands on."""
    copied = {source for one in plan.stages for source in one.needs}
    one: StagePlan | None = plan.target
    while one and one not in copied:
        one = one.base
    return one is not None


def _lowered(lowering: Lowering, one: StagePlan) -> LoweredStage:
    state = lowering.states[one]
    assert one.stage
    edge, config = lowering.drafts.finish(state.root), state.config.freeze()
    base = "" if _bottom(one).context else _bottom(one).base_name
    scan = one is not lowering.plan.target and _scans(state, SBOM_STAGE)
    return LoweredStage(one.stage.label, one.index, edge, config, one.location, scan, base)


def _scans(state: StageState, name: str) -> bool:
    text = state.declared.get(name, state.lowering.plan.globals.values.get(name, ""))
    if text.lower() in ("1", "t", "true"):
        return True
    return bool(state.plan.label) and state.plan.label in text.split(",")


def _base_image(one: StagePlan) -> ImageConfig | None:
    image = _bottom(one).image
    return image.config if image else None


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
