"""Errors are worded for tools that match BuildKit's."""

from kedge.daemon.buildkit.wording import worded
from kedge.model.errors import DockerfileError, IntegrityError, InvalidInput, KedgeError, Location, NotFound, SourceFile

LINE = Location(SourceFile("Dockerfile", "FROM x\nBADCMD\n"), 2, 2)


def test_what_a_parser_tells_names_the_line():
    error = DockerfileError("unknown instruction BADCMD", location=LINE, hint="Instructions are ADD, …")
    assert worded(error, advised=False) == "dockerfile parse error on line 2: unknown instruction: BADCMD"
    assert worded(error).endswith("(instructions are ADD, …)")


def test_flags_are_suggested_bare():
    error = DockerfileError("unknown flag --mont for RUN", hint="Did you mean --mount?")
    assert worded(error) == "unknown flag: --mont (did you mean mount?)"


def test_a_suggestion_belongs_to_the_message():
    error = DockerfileError("the platform '$BULIDPLATFORM' is empty", hint="Did you mean $BUILDPLATFORM?")
    assert (
        worded(error, advised=False)
        == "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)"
    )


def test_what_git_does_not_have_is_told_as_tools_look_for_it():
    missing = NotFound("http://h/.git has no branch or tag 'refs/heads/x'")
    assert worded(missing) == "http://h/.git: the repository does not contain ref refs/heads/x"
    other = IntegrityError(f"http://h/.git: the default branch is {'a' * 40}, expected abc")
    assert "expected checksum to match abc" in worded(other)


def test_what_a_server_answers_is_told_as_tools_look_for_it():
    error = KedgeError("http://h/a: the server answered 404 Not Found")
    assert worded(error) == "http://h/a: invalid response status 404 Not Found"


def test_files_that_would_replace_those_of_another_platform_are_told_as_tools_look_for_it():
    error = InvalidInput(
        "bin/a of linux/arm64 would replace that of linux/amd64", hint="Leave out platform-split=false."
    )
    told = "cannot overwrite bin/a from linux/amd64 with that from linux/arm64 when split option is disabled"
    assert worded(error, advised=False) == told


def test_what_nobody_looks_for_is_told_in_our_words():
    error = NotFound("no such thing", hint="Make one.")
    assert worded(error) == "no such thing (make one)"
    assert worded(error, advised=False) == "no such thing"
