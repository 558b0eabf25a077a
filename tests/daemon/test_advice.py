"""Warnings are worded for tools that match BuildKit's."""

from kedge.daemon.buildkit.advice import advice
from kedge.dockerfile.lint_rules import RULES
from kedge.model.event import WarningEvent


def test_a_shared_rule_is_told_in_the_words_tools_look_for():
    told = advice(WarningEvent("WorkdirRelativePath", "…", "…", arguments=("app/",)))
    assert told.message == 'Relative workdir "app/" can have unexpected results if the base image changes'


def test_a_suggestion_is_added_only_when_there_is_one():
    assert advice(WarningEvent("UndefinedVar", "…", arguments=("fo", "foo"))).message.endswith("(did you mean $foo?)")
    assert (
        advice(WarningEvent("UndefinedVar", "…", arguments=("fo", ""))).message == "Usage of undefined variable '$fo'"
    )


def test_every_shared_rule_has_words_and_own_rules_keep_theirs():
    for rule in RULES.values():
        event = WarningEvent(rule.name, rule.message, rule.summary, arguments=("a", "b", "c"))
        assert (advice(event) == event) is rule.own, rule.name
