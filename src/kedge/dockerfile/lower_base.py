"""What a stage starts from: a stage above, an image, a named context, or nothing.

Owns the first state of a stage and what a base image's config says about processes. Does not know instructions.
"""

from kedge.dockerfile import contexts
from kedge.dockerfile.config import DEFAULT_PATH, ConfigDraft, empty_config
from kedge.dockerfile.drafts import DraftEdge
from kedge.dockerfile.lower_config import set_workdir
from kedge.dockerfile.stage_plan import StagePlan
from kedge.dockerfile.state import Lowering, StageState
from kedge.dockerfile.variables import platform_text
from kedge.model.graph import Hints
from kedge.model.image import ImageConfig
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.value import replace


def start_stage(lowering: Lowering, one: StagePlan) -> StageState:
    """The state of a stage before its first instruction; raises DockerfileError for a context that cannot be meant."""
    return _on_stage(lowering, one) if one.base else _on_image(lowering, one)


def _on_stage(lowering: Lowering, one: StagePlan) -> StageState:
    assert one.base
    base = lowering.states[one.base]
    lowering.inherit(base.config.history)
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
    if image and image.source:
        hints = Hints(state.title_of_base(f"FROM {image.source.identifier}"), location=one.location, stage=one.called)
        return state.lowering.drafts.add(image.source, hints=hints)
    name = contexts.image_name(one.request.reference, image)
    if image and not image.config.diff_ids and all(entry.empty_layer for entry in image.config.history):
        return None  # an image without layers
    if image:
        _check_platform(state, image.config.platform)
    attrs = (("image.resolvemode", options.resolve_mode),) if options.resolve_mode != "default" else ()
    hints = Hints(state.title_of_base(f"FROM {name}"), location=one.location, stage=one.called)
    return state.lowering.drafts.add(Source(f"docker-image://{name}", attrs), platform=state.platform, hints=hints)


def _check_platform(state: StageState, actual: Platform) -> None:
    wanted, one = state.platform, state.plan
    if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):
        words = (one.base_name, platform_text(wanted), platform_text(actual))
        state.lowering.plan.findings.report("InvalidBaseImagePlatform", one.location, *words, comments=one.comments)


def inherit(state: StageState) -> None:
    """Take over what the base's config says about processes."""
    if "PATH" not in state.config.env and state.platform.os != "windows":
        state.config.env["PATH"] = DEFAULT_PATH
    for name, value in state.config.env.items():
        state.set_env(name, value)
    if state.config.working_dir:
        set_workdir(state, state.config.working_dir)
    if state.config.user:
        state.user = state.config.user
