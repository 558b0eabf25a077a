"""Which stages a build needs, and what each stands on: the Dockerfile's stages tied together, before any graph.

Owns the names that --from, FROM and mounts may use, ONBUILD triggers, the images and contexts that stages start from.
Does not know what instructions do. One call of `make_plan` works with the images known so far and lists those
missing.

How: (1) every stage gets its base: a stage above, a named context, scratch or an image. (2) COPY --from and mounts tie
stages; a name that is no stage becomes a nameless one on that image. (3) From the target, walk to all it needs; bases
whose image is known give their ONBUILD triggers, which may tie further stages: then walk again.
"""

import re
from collections.abc import Mapping

from kedge.dockerfile import contexts
from kedge.dockerfile.cycles import refuse_cycles
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Add, Command, Copy, From, Onbuild, Run, Workdir
from kedge.dockerfile.mounts import mount_stage
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.outline import Capture
from kedge.dockerfile.parser import parse
from kedge.dockerfile.read import read_instruction
from kedge.dockerfile.stage_plan import SCRATCH, Plan, StagePlan, Step
from kedge.dockerfile.stages import Stage, StagedFile
from kedge.dockerfile.variables import expand_in_from, platform_text, read_globals, unknown_stage
from kedge.dockerfile.words import Expansion, expand
from kedge.model.errors import DockerfileError, InvalidPlatform, KedgeError, Location
from kedge.model.platform import Platform, parse_platform
from kedge.model.reference import parse_reference
from kedge.model.suggest import nearest
from kedge.model.value import replace

_INDEX = re.compile(r"[+-]?[0-9]{1,9}")


def make_plan(
    file: StagedFile,
    options: LowerOptions,
    images: Mapping[ImageRequest, ResolvedImage],
    findings: Findings,
) -> Plan:
    """Tie the stages together; raises DockerfileError, NotFound."""
    plan = Plan(file, options, read_globals(file, options, findings), findings)
    for stage in file.stages:
        _add_stage(plan, stage)
    plan.target = _find_target(plan)
    for one in list(plan.stages):
        for command in one.stage.commands if one.stage and not one.context else ():
            _add_step(plan, one, len(one.steps), command)
    refuse_cycles(plan.stages, through_bases=False)
    if len(plan.stages) == 1:
        plan.stages[0].label = ""
    _resolve(plan, images)
    return plan


# ---- (1) stages and their bases --------------------------------------------------------------------------------------


def _add_stage(plan: Plan, stage: Stage) -> None:
    try:
        source, escape = stage.source, plan.file.file.escape
        base = expand_in_from(source.base, plan.globals, escape, stage.location, plan.findings, source.comments)
        if not base.text:
            raise DockerfileError(
                f"the base name {source.base!r} is empty", hint=_give_value(plan, base), fault=source.base
            )
        platform, read = _read_platform(plan, source)
    except KedgeError as error:
        raise error.at(stage.location, stage.label) from None
    one = StagePlan(stage, stage.index, stage.label, base.text, stage.location, platform)
    one.capture = Capture(dict(plan.globals.declared))
    one.context = contexts.find(plan.options, stage.name, platform) if stage.name else None
    _register(plan, one)
    if one.context:
        one.base = None
        return
    one.capture.used |= {*base.matched, *read}
    one.total = sum(isinstance(command, (Add, Copy, Run, Workdir)) for command in stage.commands)
    one.total += one.base is None and one.base_name != SCRATCH
    one.written = one.total
    one.no_cache = plan.options.ignores_cache(stage.name)


def _register(plan: Plan, one: StagePlan) -> None:
    plan.stages.append(one)
    one.base = plan.by_name.get(one.base_name.lower())
    if one.base:
        one.capture = one.base.capture.copy()
    if one.name:
        plan.by_name[one.name] = one


def _read_platform(plan: Plan, source: From) -> tuple[Platform | None, tuple[str, ...]]:
    if not source.platform:
        return None, ()
    values, findings = plan.globals.values, plan.findings
    result = expand_in_from(
        source.platform, plan.globals, plan.file.file.escape, source.location, findings, source.comments
    )
    only_target = result.matched == ("TARGETPLATFORM",) and not result.unmatched
    if only_target and result.text == values["TARGETPLATFORM"]:
        findings.report("RedundantTargetPlatform", source.location, source.platform, comments=source.comments)
    if not result.text:
        raise DockerfileError(
            f"the platform {source.platform!r} is empty", hint=_give_value(plan, result), fault=source.platform
        )
    platform = _parse_platform(plan, source.platform, result)
    constant = not result.matched and not result.unmatched
    if constant and platform.os not in source.stage and platform.architecture not in source.stage:
        findings.report("FromPlatformFlagConstDisallowed", source.location, result.text, comments=source.comments)
    return platform, result.matched


def _parse_platform(plan: Plan, written: str, result: Expansion) -> Platform:
    try:
        return parse_platform(result.text, plan.options.build_platform)
    except InvalidPlatform as error:
        if not result.unmatched:
            raise
        why = error.message.rpartition(": ")[2]
        raise DockerfileError(
            f"the platform {written!r} comes to {result.text!r}: {why}", hint=_give_value(plan, result), fault=written
        ) from None


def _give_value(plan: Plan, result: Expansion) -> str:
    for name in result.unmatched:
        if name in plan.globals.names:
            return f"Give it a value by --build-arg {name}=…."
        near = nearest(name, sorted(plan.globals.names))
        if near:
            return f"Did you mean ${near}?"
    return "Give its argument a value by --build-arg."


def _find_target(plan: Plan) -> StagePlan:
    if not plan.options.target:
        return plan.stages[-1]
    found = plan.by_name.get(plan.options.target.lower())
    if found is None:
        raise unknown_stage(plan.options.target, [one.name for one in plan.stages if one.name])
    return found


# ---- (2) what steps name ---------------------------------------------------------------------------------------------


def _add_step(plan: Plan, one: StagePlan, position: int, command: Command, onbuild: bool = False) -> Step:
    try:
        sources = _sources(plan, command)
    except KedgeError as error:
        raise error.at(command.location, one.called) from None
    step = Step(command, sources, onbuild)
    one.steps.insert(position, step)
    for source in sources:
        one.needs[source] = step
        if source.stage is None and source not in plan.stages:
            _register(plan, source)
    return step


def _sources(plan: Plan, command: Command) -> list[StagePlan]:
    if isinstance(command, Copy) and command.source_stage:
        if expand(command.source_stage, {}, plan.file.file.escape).text != command.source_stage:
            raise DockerfileError(
                "--from cannot have variables", hint="Name the image in a stage of its own: FROM $IMAGE AS name."
            )
        if _INDEX.fullmatch(command.source_stage):
            return [_by_index(plan, command)]
        return [_by_name(plan, command.source_stage, command.location)]
    if isinstance(command, Run):
        return [_by_name(plan, mount_stage(text) or SCRATCH, command.location) for text in command.mounts]
    return []


def _by_index(plan: Plan, command: Copy) -> StagePlan:
    index = int(command.source_stage)
    if not 0 <= index < len(plan.stages):
        hint = f"The file's stages are numbered 0 to {len(plan.file.stages) - 1}."
        raise DockerfileError(f"no stage has the index {index}", hint=hint, fault=f"--from={index}")
    return plan.stages[index]


def _by_name(plan: Plan, name: str, location: Location) -> StagePlan:
    if name.lower() in plan.by_name:
        return plan.by_name[name.lower()]
    if name not in plan.nameless:
        plan.nameless[name] = StagePlan(None, -1, "", name, location)
    return plan.nameless[name]


# ---- (3) what the target needs ---------------------------------------------------------------------------------------


def _resolve(plan: Plan, images: Mapping[ImageRequest, ResolvedImage]) -> None:
    more = True
    while more:
        plan.missing.clear()
        reached = set(plan.stages) if plan.options.all_stages else _reach(plan.target)
        plan.needed = [one for one in plan.stages if one in reached]
        for one in plan.needed:
            _resolve_base(plan, one, images)
        more = False
        for one in plan.needed:
            more |= _read_triggers(plan, one)
    refuse_cycles(plan.needed, through_bases=True)


def _reach(target: StagePlan) -> set[StagePlan]:
    reached: set[StagePlan] = set()
    stack = [target]
    while stack:
        one = stack.pop()
        if one not in reached:
            reached.add(one)
            stack.extend(one.needs)
            stack.extend([one.base] if one.base else [])
    return reached


def _resolve_base(plan: Plan, one: StagePlan, images: Mapping[ImageRequest, ResolvedImage]) -> None:
    if one.base or one.is_scratch or one.image:
        return
    try:
        request = _request(plan, one)
    except KedgeError as error:
        raise error.at(one.location, one.called) from None
    one.request = request
    if request is None:
        return
    if request in images:
        one.image = images[request]
    else:
        plan.missing.add(request)


def _request(plan: Plan, one: StagePlan) -> ImageRequest | None:
    platform = one.platform or plan.options.platform
    if one.context:
        return one.context.request(platform, one.location, one.called)
    one.base_context = contexts.find(plan.options, one.base_name, platform)
    if one.base_context:
        return one.base_context.request(platform, one.location, one.called)
    try:
        reference = str(parse_reference(one.base_name))
    except KedgeError as error:
        near = nearest(one.base_name, plan.names)
        hint = f"Did you mean {near}?" if near else error.hint
        if one.stage and one.base_name != one.stage.source.base:
            hint = f"It comes from {one.stage.source.base}: give its arguments values by --build-arg."
        message = f"{one.base_name!r} is no stage and no image name: {error.message}"
        raise DockerfileError(message, hint=hint, fault=one.base_name) from None
    shown = f"{platform_text(platform)} " if plan.options.multi_platform else ""
    title = f"[{shown}internal] load metadata for {reference}"
    others = tuple(name for name in plan.names if name != one.label)
    return ImageRequest(reference, platform, "docker-image", title, one.location, one.called, others)


def _read_triggers(plan: Plan, one: StagePlan) -> bool:
    """Put the base's ONBUILD triggers before the stage's own steps; whether they tied it to further stages."""
    if one.triggers_read or one.context or one.stage is None:
        return False
    if one.base is None and one.image is None and not one.is_scratch:
        return False  # its image is not known yet, or it has none
    one.triggers_read = True
    triggers = list(one.image.config.on_build) if one.image else []
    if one.base:
        triggers += [step.command.trigger for step in one.base.steps if isinstance(step.command, Onbuild)]
    steps = [_add_step(plan, one, at, _read_trigger(one, text), True) for at, text in enumerate(triggers)]
    one.total += len(triggers)
    return any(step.sources for step in steps)


def _read_trigger(one: StagePlan, text: str) -> Command:
    try:
        nodes = parse(text, "ONBUILD trigger").nodes
        if len(nodes) != 1:
            raise DockerfileError("an ONBUILD trigger is more than one instruction")
        typed = read_instruction(nodes[0], Findings())
        if isinstance(typed, (From, Onbuild)) or typed.name == "MAINTAINER":
            raise DockerfileError(f"{typed.name} cannot be an ONBUILD trigger")
    except KedgeError as error:
        error.location = one.location
        error.message = f"ONBUILD trigger {text[:100]!r} of the base image: {error.message}"
        raise error.at(one.location, one.called) from None
    return replace(typed, location=one.location)
